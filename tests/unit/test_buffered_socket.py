"""A socket that is read ahead: the same bytes, however they come and are asked for."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.brokers.buffered_socket import READ_BYTES, BufferedSocket


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        yield here, there


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=10),
    st.lists(st.integers(1, 60) | st.just(READ_BYTES), min_size=1, max_size=10),
)
def test_what_is_read_is_what_was_sent(
    pair: tuple[socket.socket, socket.socket], sent: list[bytes], sizes: list[int]
) -> None:
    here, there = pair
    buffered = BufferedSocket(here)
    for data in sent:
        there.sendall(data)
    found = b""
    for size in itertools.cycle(sizes):
        try:
            piece = buffered.recv(size)
        except BlockingIOError:
            break
        assert 0 < len(piece) <= size
        found += piece
    assert found == b"".join(sent)
    assert buffered.pending() == 0


def test_the_end_comes_after_what_was_read_ahead() -> None:
    here, there = socket.socketpair()
    with here:
        there.sendall(b"abc")
        there.close()
        buffered = BufferedSocket(here)
        assert (buffered.recv(1), buffered.pending(), buffered.recv(5), buffered.recv(1)) == (b"a", 2, b"bc", b"")


def test_all_else_is_the_sockets_own() -> None:
    here, there = socket.socketpair()
    with there:
        buffered = BufferedSocket(here)
        assert buffered.fileno() == here.fileno()
        assert buffered.send(b"x") == 1
        assert there.recv(1) == b"x"
        buffered.close()
        assert here.fileno() == -1
