"""A socket that is read ahead of its reader: paho-mqtt asks for each packet in at least three pieces."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

READ_BYTES: Final = 32 * 1024


class BufferedSocket:
    """Receives as a non-blocking socket does; all else is the socket's own."""

    def __init__(self, behind: socket.socket) -> None:
        self._behind = behind
        self._data = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        """Return up to ``size`` bytes; b"" at the end.

        Raises:
            BlockingIOError: there are none just now (``ssl.SSLWantReadError`` with TLS).
        """
        if self._at == len(self._data):
            if size >= READ_BYTES:
                return self._behind.recv(size)
            self._data, self._at = self._behind.recv(READ_BYTES), 0
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def pending(self) -> int:
        """Return how many bytes are here although the operating system has handed them over already."""
        behind = self._behind.pending() if isinstance(self._behind, ssl.SSLSocket) else 0
        return len(self._data) - self._at + behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)
