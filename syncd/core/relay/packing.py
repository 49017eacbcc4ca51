"""Cut changes and files into parcels.

Rules
-----
1. A parcel's body is at most as large as was asked for. What cannot be cut (a head, a single value) and is larger is
   handed back, never cut short.
2. The same changes cut in the same way have the same ids. Whether points may have been told before is no part of an id.
3. Inside a parcel: zlib of a line of JSON (who and what) and then, for each fact, a line of JSON and its body; points
   are lines in wire form. Of a chunk, its bytes follow the first line.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from syncd.core.changes import Again, Change, Head, parse, render
from syncd.core.facts import SubjectKey
from syncd.core.relay.values import CHUNK_TYPE, FACTS_TYPE, VERSION, Parcel, RelayOrigin

# Of points with random values level 1 leaves 21 % at 127 MB/s, level 6 19.5 % at 49 MB/s (measured 2026-11-25).
LEVEL: Final = 1
# Before it is compressed: enough that a message is worth its way, little enough to be held many times over.
MOST_RAW_BYTES: Final = 1024 * 1024
_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Address:
    """Who speaks, of what: the same for all parcels of a subject."""

    origin: RelayOrigin
    subject: SubjectKey
    about: Sequence[Head]


class TooLarge(Exception):
    """A change that fits into no parcel of the size allowed."""

    def __init__(self, seq: int, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes that cannot be cut into smaller messages")
        self.seq = seq
        self.size_bytes = size_bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    """A change or a part of one; ``is_last`` says that the change ends with it."""

    seq: int
    kind: str
    body: bytes
    items: int
    again: bool
    is_last: bool = True


def pack(address: Address, changes: Sequence[Change], *, most_bytes: int) -> Iterator[Parcel]:
    """Yield parcels that tell these changes (of any kind but artifacts), in order.

    Raises:
        TooLarge: a change fits into none; the parcels before are good.
    """
    gathered: list[_Piece] = []
    size = 0
    for change in changes:
        piece = _Piece(
            change.seq, change.kind, change.body, change.items, change.again is Again.RESTATED or change.attempted
        )
        if gathered and size + len(piece.body) > MOST_RAW_BYTES:
            yield from _parcels(address, gathered, most_bytes)
            gathered, size = [], 0
        gathered.append(piece)
        size += len(piece.body)
    if gathered:
        yield from _parcels(address, gathered, most_bytes)


def _parcels(address: Address, pieces: Sequence[_Piece], most_bytes: int) -> Iterator[Parcel]:
    if sum(len(piece.body) for piece in pieces) <= 2 * MOST_RAW_BYTES:
        parcel = _parcel(address, pieces)
        if len(parcel.body) <= most_bytes:
            yield parcel
            return
    for half in _halves(pieces, most_bytes):
        yield from _parcels(address, half, most_bytes)


def _halves(pieces: Sequence[_Piece], most_bytes: int) -> tuple[Sequence[_Piece], Sequence[_Piece]]:
    if len(pieces) > 1:
        middle = len(pieces) // 2
        return pieces[:middle], pieces[middle:]
    [piece] = pieces
    first, second = _cut(piece)
    if not first or not second:
        raise TooLarge(piece.seq, len(piece.body))
    return [replace(piece, body=first[0], items=first[1], is_last=False)], [
        replace(piece, body=second[0], items=second[1])
    ]


_Part = tuple[bytes, int] | None


def _cut(piece: _Piece) -> tuple[_Part, _Part]:
    """Cut a piece's body in two, with the number of items of each; None for a part with nothing in it."""
    if piece.kind == "metrics":
        return _cut_lines(piece)
    if piece.kind in ("params", "tags"):
        entries = list(parse(piece.body).items())
        middle = len(entries) // 2
        return _part(dict(entries[:middle]), middle), _part(dict(entries[middle:]), len(entries) - middle)
    if piece.kind in ("untag", "outputs"):
        values = parse(piece.body)
        middle = len(values) // 2
        return _part(values[:middle], middle), _part(values[middle:], len(values) - middle)
    if piece.kind == "inputs":
        return _cut_inputs(parse(piece.body))
    return None, None


def _cut_lines(piece: _Piece) -> tuple[_Part, _Part]:
    middle = piece.body.find(b"\n", len(piece.body) // 2)
    if middle < 0:
        middle = piece.body.rfind(b"\n")
    if middle < 0:
        return None, None
    first, second = piece.body[:middle], piece.body[middle + 1 :]
    before = first.count(b"\n") + 1
    return (first, before), (second, piece.items - before)


def _cut_inputs(value: Any) -> tuple[_Part, _Part]:
    datasets, models = value["datasets"], value["models"]
    if datasets and models:
        return _part({"datasets": datasets, "models": []}, len(datasets)), _part(
            {"datasets": [], "models": models}, len(models)
        )
    key, values = ("datasets", datasets) if datasets else ("models", models)
    middle = len(values) // 2
    empty: dict[str, list[Any]] = {"datasets": [], "models": []}
    return _part({**empty, key: values[:middle]}, middle), _part({**empty, key: values[middle:]}, len(values) - middle)


def _part(value: Any, items: int) -> _Part:
    return (render(value), items) if items else None


def _parcel(address: Address, pieces: Sequence[_Piece]) -> Parcel:
    digest = hashlib.blake2b(digest_size=_ID_BYTES)
    digest.update(render([address.origin.journal, asdict(address.subject)]))
    told: list[bytes] = []
    for piece in pieces:
        head = {"order": address.origin.order(piece.seq), "kind": piece.kind, "items": piece.items}
        digest.update(render(head) + b"\n" + piece.body + b"\n")
        told += [render({**head, "again": piece.again}), piece.body]
    body = _body(address, FACTS_TYPE, digest.hexdigest(), {}, b"\n".join(told))
    return Parcel(digest.hexdigest(), body, tuple(piece.seq for piece in pieces if piece.is_last and piece.seq))


@dataclass(frozen=True, slots=True)
class File:
    """A file of the subject: the change that told of it, its path there, its size and the SHA-256 of it, in hex."""

    seq: int
    path: str
    size_bytes: int
    digest: str


def chunk(address: Address, file: File, offset: int, content: bytes, *, attempt: int = 0) -> Parcel:
    """Return the parcel with a file's bytes from ``offset`` on (``content`` b"" for an empty file).

    A broker may leave out a message whose id it has had lately: ``attempt`` tells one sending on purpose from another.
    """
    header = {
        "order": address.origin.order(file.seq),
        "path": file.path,
        "size_bytes": file.size_bytes,
        "digest": file.digest,
        "offset": offset,
    }
    said = render([address.origin.journal, asdict(address.subject), header, len(content), attempt])
    digest = hashlib.blake2b(said, digest_size=_ID_BYTES).hexdigest()
    body = _body(address, CHUNK_TYPE, digest, {"chunk": header}, content)
    ends = offset + len(content) >= file.size_bytes
    return Parcel(digest, body, (file.seq,) if ends else ())


def room_for_chunk(address: Address, file: File, *, most_bytes: int) -> int:
    """Return how many bytes of a file fit into a parcel however badly they compress; 0 or less: none."""
    empty = chunk(address, file, file.size_bytes, b"")
    whole = (most_bytes - len(empty.body)) * 3 // 4
    return min(MOST_RAW_BYTES, whole - whole // 1000 - 64)


def _body(address: Address, kind: str, identity: str, more: dict[str, Any], rest: bytes) -> bytes:
    header = {
        "version": VERSION,
        "origin": asdict(address.origin),
        "subject": asdict(address.subject),
        "about": [asdict(head) for head in address.about],
        **more,
    }
    packed = zlib.compress(render(header) + b"\n" + rest, LEVEL)
    event = {
        "specversion": "1.0",
        "id": identity,
        "type": kind,
        "source": f"syncd/{address.origin.daemon}",
        "subject": address.subject.id,
        "datacontenttype": "application/vnd.syncd.relay+zlib",
        "data_base64": base64.b64encode(packed).decode("ascii"),
    }
    return json.dumps(event, separators=(",", ":")).encode()
