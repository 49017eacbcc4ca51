"""The services that come from outside: they answer as configured, and can be stopped, killed and started again."""

from __future__ import annotations

import socket
import ssl
import uuid
from pathlib import Path

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobServiceClient

from tests.standins.azurite import RunningAzurite
from tests.standins.mosquitto import RunningMosquitto

ACCEPTED, NOT_AUTHORIZED = 0, 5


def connect(broker: RunningMosquitto, *, user: str = "", password: str = "", tls: ssl.SSLContext | None = None) -> int:
    """Send MQTT 3.1.1's CONNECT; return the code of the CONNACK."""
    texts = ["probe", *([user, password] if user else [])]
    payload = b"".join(len(text).to_bytes(2) + text.encode() for text in texts)
    body = b"\x00\x04MQTT\x04" + (b"\xc2" if user else b"\x02") + b"\x00\x3c" + payload
    with socket.create_connection((broker.host, broker.port), timeout=10) as plain:
        way = tls.wrap_socket(plain, server_hostname=broker.host) if tls else plain
        way.sendall(b"\x10" + bytes([len(body)]) + body)
        answer = way.recv(4)
        if tls:
            way.close()
    assert answer[:2] == b"\x20\x02"
    return answer[3]


def test_the_open_broker_takes_everybody(mosquitto: RunningMosquitto) -> None:
    assert connect(mosquitto) == ACCEPTED


def test_a_broker_with_users_takes_only_them_and_only_with_tls(tmp_path: Path) -> None:
    with RunningMosquitto(tmp_path / "broker", users={"device": "secret"}, tls=True) as broker:
        assert broker.ca is not None
        trusting = ssl.create_default_context(cafile=str(broker.ca))
        assert connect(broker, user="device", password="secret", tls=trusting) == ACCEPTED
        assert connect(broker, user="device", password="wrong", tls=trusting) == NOT_AUTHORIZED
        assert connect(broker, tls=trusting) == NOT_AUTHORIZED
        broker.kill()
        with pytest.raises(ConnectionRefusedError):
            connect(broker)
        broker.start()
        assert connect(broker, user="device", password="secret", tls=trusting) == ACCEPTED


def test_azurite_takes_what_a_signed_url_allows(azurite: RunningAzurite) -> None:
    name = uuid.uuid4().hex
    with BlobServiceClient.from_connection_string(azurite.connection_string, retry_total=0) as service:
        service.create_container(name)
        url = azurite.sas_url(f"{name}/a folder/ü.bin", "cw")
        with BlobClient.from_blob_url(url, retry_total=0) as blob:
            blob.upload_blob(b"content")
            with pytest.raises(HttpResponseError) as unreadable:
                blob.download_blob()
        assert unreadable.value.status_code == 403
        assert service.get_blob_client(name, "a folder/ü.bin").download_blob().readall() == b"content"
        expired = azurite.sas_url(f"{name}/a folder/ü.bin", "r", lifetime_s=-60)
        with BlobClient.from_blob_url(expired, retry_total=0) as blob, pytest.raises(HttpResponseError) as late:
            blob.download_blob()
        assert late.value.status_code == 403
        with pytest.raises(ResourceNotFoundError):
            service.get_blob_client(name, "none").download_blob()
