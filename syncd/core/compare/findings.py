"""What a comparison comes to: differences, notes, and the place they are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from syncd.core.facts import SubjectKind

Kind = Literal["missing", "extra", "different", "twice", "unreadable"]


@dataclass(frozen=True, slots=True)
class Place:
    """The experiment, run or model that a difference is in. ``destination_id`` is "" when it is not there."""

    source: str
    subject: SubjectKind
    id: str
    name: str
    destination_id: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference.

    ``part`` says of what ("run", "status", "tag", "points", ...), ``key`` of which. A value is None where there is
    none. ``count`` is the number of points, otherwise 1.
    """

    kind: Kind
    part: str
    key: str = ""
    source_value: str | None = None
    destination_value: str | None = None
    count: int = 1
    examples: Sequence[str] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is as it should be, but not as a reader would expect."""

    part: str
    key: str
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison came to; ``in_overflow`` counts the values that only the overflow holds."""

    differences: Sequence[Difference] = ()
    notes: Sequence[Note] = ()
    in_overflow: int = 0
