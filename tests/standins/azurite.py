"""Azurite's blob service, Microsoft's own emulator, in memory on a free port of 127.0.0.1.

    with RunningAzurite(tmp_path) as azurite:
        BlobServiceClient.from_connection_string(azurite.connection_string)
        azurite.sas_url("container/a.bin", "cw")

``scripts/system-packages`` installs it into ``.venv/azurite``. Everything is forgotten when it stops.
"""

from __future__ import annotations

import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from azure.storage.blob import BlobSasPermissions, ContainerSasPermissions, generate_blob_sas, generate_container_sas

from tests.standins.server_process import ServerProcess

SCRIPT = Path(__file__).parents[2] / ".venv/azurite/node_modules/azurite/dist/src/blob/main.js"
# The one account that every Azurite has, with its key: both stand in Azurite's documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class RunningAzurite(ServerProcess):
    """Starts on entering, stops on leaving."""

    @property
    def url(self) -> str:
        """The account's address; a container's is ``{url}/{container}``."""
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        named = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY}"
        return f"{named};BlobEndpoint={self.url};"

    def command(self) -> list[str]:
        node = shutil.which("node")
        assert node is not None, "node is missing: run scripts/system-packages"
        assert SCRIPT.exists(), "Azurite is missing: run scripts/system-packages"
        options = ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"]
        return [node, str(SCRIPT), "--blobHost", "127.0.0.1", "--blobPort", str(self.port), *options]

    def answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2):
            return True

    def sas_url(self, path: str, permissions: str, *, lifetime_s: float = 3600.0) -> str:
        """Return a URL of a container or ``container/blob`` that carries its permission, as a service hands them out.

        Args:
            path: the container, or the container and the blob's name.
            permissions: letters, in Azure's order: "r", "cw", "racwdl".
            lifetime_s: may be negative, for one that has expired.
        """
        container, _, blob = path.partition("/")
        expiry = datetime.now(UTC) + timedelta(seconds=lifetime_s)
        if blob:
            signed = generate_blob_sas(
                ACCOUNT, container, blob, account_key=KEY, permission=BlobSasPermissions.from_string(permissions),
                expiry=expiry,
            )  # fmt: skip
        else:
            signed = generate_container_sas(
                ACCOUNT, container, account_key=KEY, permission=ContainerSasPermissions.from_string(permissions),
                expiry=expiry,
            )  # fmt: skip
        return f"{self.url}/{quote(path)}?{signed}"
