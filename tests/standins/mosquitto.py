"""A real mosquitto on a free port of 127.0.0.1, open to all, with a password, or with TLS.

    with RunningMosquitto(tmp_path) as broker:
        ... broker.host, broker.port ...

    RunningMosquitto(tmp_path, users={"device": "secret"}, tls=True)     # broker.ca is the authority's certificate

Sessions, queued and retained messages survive ``stop`` and ``start``, and ``kill`` but for what came in the same
moment: they are written after each change. A queue has no limit (mosquitto's own is 1000 messages, then it drops).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import trustme

from tests.standins.server_process import LOOK_S, ServerProcess

HOST = "127.0.0.1"
SAVE_TIMEOUT_S = 30.0
# Debian installs the broker where only root's PATH looks.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"


class RunningMosquitto(ServerProcess):
    """Starts on entering, stops on leaving; ``options`` are further lines of its configuration file."""

    host = HOST

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        tls: bool = False,
        options: str = "",
        port: int = 0,
    ) -> None:
        super().__init__(folder, port=port)
        self.users = dict(users or {})
        self.ca: Path | None = folder / "ca.pem" if tls else None
        self.options = options

    def command(self) -> list[str]:
        program = shutil.which("mosquitto", path=PATH)
        assert program is not None, "mosquitto is missing: run scripts/system-packages"
        lines = [
            f"listener {self.port} {HOST}",
            f"allow_anonymous {'false' if self.users else 'true'}",
            # As root it would become the user mosquitto, who may not write here.
            "user root",
            "persistence true",
            f"persistence_location {self.folder}/",
            "autosave_interval 1",
            "autosave_on_changes true",
            "max_queued_messages 0",
            "log_type all",
        ]
        if self.users:
            lines.append(f"password_file {self._write_passwords()}")
        if self.ca is not None:
            lines += self._write_certificates(self.ca)
        config = self.folder / "mosquitto.conf"
        config.write_text("\n".join([*lines, self.options, ""]))
        return [program, "-c", str(config)]

    def _write_passwords(self) -> Path:
        """Write the file once: each hash takes a tenth of a second."""
        file = self.folder / "passwords"
        if not file.exists():
            file.write_text("".join(f"{name}:{password}\n" for name, password in self.users.items()))
            file.chmod(0o600)
            subprocess.run(["mosquitto_passwd", "-U", str(file)], check=True, env={**os.environ, "PATH": PATH})
        return file

    def _write_certificates(self, ca: Path) -> list[str]:
        certificate, key = self.folder / "server.pem", self.folder / "server.key"
        if not ca.exists():
            authority = trustme.CA()
            issued = authority.issue_cert(HOST, "localhost")
            issued.private_key_pem.write_to_path(str(key))
            for number, part in enumerate(issued.cert_chain_pems):
                part.write_to_path(str(certificate), append=number > 0)
            authority.cert_pem.write_to_path(str(ca))
        return [f"certfile {certificate}", f"keyfile {key}"]

    def save(self) -> None:
        """Have it write all that it knows to its disk, which ``kill`` then does not take; return when it has."""
        database = self.folder / "mosquitto.db"
        before = database.stat().st_ino if database.exists() else None
        os.kill(self.pid, signal.SIGUSR1)
        deadline_s = time.monotonic() + SAVE_TIMEOUT_S
        while not database.exists() or database.stat().st_ino == before:  # it is renamed into its place
            assert time.monotonic() < deadline_s, "mosquitto does not save"
            time.sleep(LOOK_S)

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=2):
            return True
