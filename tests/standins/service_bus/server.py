"""A broker in a process of its own, for tests: it may be killed and started again, and shows faults on command."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.standins.service_bus.entities import DEAD_LETTERS
from tests.standins.service_bus.faults import Fault
from tests.standins.startable import Startable

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Kept:
    """A message that lies in an entity; ``dead_letter`` is its reason and description in a dead-letter queue."""

    id: str
    session: str | None
    body: str
    content_type: str
    properties: dict[str, str]
    failures: int
    dead_letter: tuple[str, str] | None


class ServiceBus(Startable):
    """One namespace. Entities and messages stay in the folder when it is killed or stopped; so does the port."""

    def __init__(self, folder: Path, *, max_message_bytes: int = 256 * 1024) -> None:
        self._folder = folder
        self.max_message_bytes = max_message_bytes
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def connection_string(self) -> str:
        """What a client connects with."""
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName=test;SharedAccessKey=c2VjcmV0;"
            "UseDevelopmentEmulator=true;"
        )

    def start(self) -> None:
        """Serve; return when connections are taken."""
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--folder", str(self._folder), "--port", str(self.port)]
        arguments += ["--max-message-bytes", str(self.max_message_bytes)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.standins.service_bus", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = self._answer()

    def stop(self) -> None:
        """Stop serving, if it does; what is stored stays."""
        self._end(kill=False)

    def kill(self) -> None:
        """End the process at once, as ``kill -9`` does."""
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        if self._process is not None:
            if kill:
                self._process.kill()
            self._process.communicate()  # its standard input ends, and so does it
            self._process = None

    # -- commands --------------------------------------------------------------------------------------------------

    def queue(self, name: str, **rules: Any) -> str:
        """Have a queue with these ``Rules``; return its name."""
        self._obey("queue", name=name, **rules)
        return name

    def subscription(self, topic: str, name: str, **rules: Any) -> str:
        """Have a topic and a subscription of it; return the subscription's address."""
        self._obey("subscription", topic=topic, name=name, **rules)
        return f"{topic}/Subscriptions/{name}"

    def put(self, address: str, bodies: Iterable[bytes], **options: Any) -> None:
        """Have messages in a queue or topic, as if a client had sent them: see ``messages.compose`` for the options.

        Without ``message_id`` each is named after its place in the call.
        """
        messages = [
            {"message_id": f"id-{number}", **options, "body": base64.b64encode(body).decode()}
            for number, body in enumerate(bodies)
        ]
        self._obey("put", address=address, messages=messages)

    def fault(self, fault: Fault, times: int = 1) -> None:
        """Show a fault so many times from now on."""
        self._obey("fault", fault=fault, times=times)

    def drop_connections(self) -> int:
        """Cut all connections; return how many there were."""
        return int(self._obey("drop"))

    def count(self, address: str) -> int:
        """Return how many messages lie there, locked ones included."""
        return int(self._obey("count", address=address))

    def messages(self, address: str) -> list[Kept]:
        """Return the messages that lie there, locked ones included, in order."""
        return [
            Kept(**{**found, "dead_letter": tuple(found["dead_letter"]) if found["dead_letter"] else None})
            for found in self._obey("messages", address=address)
        ]

    def dead_letters(self, address: str) -> list[Kept]:
        """Return the messages of an entity's dead-letter queue."""
        return self.messages(address + DEAD_LETTERS)

    def _obey(self, command: str, **given: Any) -> Any:
        assert self._process is not None, "the broker does not run"
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, given]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the broker ended"
        return json.loads(line)
