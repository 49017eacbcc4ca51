"""Commits what a source has read, and how far: its facts, and the cursors that follow from them.

Rules
-----
1. Facts and the cursors that follow from them are committed in one transaction (``commit``). Whoever acknowledges a
   source does so after ``commit`` has returned: then the facts are on disk, fsynced.
2. What is to be stated once more has its cursors forgotten; a reading that began from them before does not put them
   back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from syncd.core.facts import Reading
from syncd.journal.fact_intake import FactIntake
from syncd.journal.journal import Journal


def commit(
    journal: Journal,
    source_id: int,
    audience: int,
    readings: Iterable[Reading],
    *,
    first_reading: bool = False,
    forgotten_before: int | None = None,
) -> dict[int, set[int]]:
    """Commit readings: their facts, one delivery for each destination of the audience, and their cursors.

    ``forgotten_before`` is what ``forgotten`` was when these readings began: what was forgotten since then they
    began from all the same, and their cursors of it are not kept, so that it is stated whole by the next ones.

    Returns:
        For each destination id the subjects that now wait for it.

    Raises:
        JournalFull: nothing was committed; pause and state the same again later.
    """
    with journal._transaction("committing what was read"):
        destinations = [row[0] for row in journal._run("audience_destinations", {"audience": audience}).fetchall()]
        intake = FactIntake(journal, source_id, destinations, first_reading=first_reading)
        for reading in readings:
            for fact in reading.facts:
                intake.add(fact)
            remembered = _remembered(journal, source_id, reading.cursors, forgotten_before)
            _put_cursors(journal, source_id, audience, remembered)
    return dict.fromkeys(destinations, intake.subjects)


def _remembered(
    journal: Journal, source_id: int, cursors: Mapping[str, bytes | None], forgotten_before: int | None
) -> Mapping[str, bytes | None]:
    since = [] if forgotten_before is None else journal._forgotten[forgotten_before:]
    prefixes = tuple(prefix for source, prefix in since if source == source_id)
    if not prefixes:
        return cursors
    return {key: value for key, value in cursors.items() if not key.startswith(prefixes)}


def _put_cursors(journal: Journal, source_id: int, audience: int, cursors: Mapping[str, bytes | None]) -> None:
    kept = [(source_id, audience, key, value) for key, value in cursors.items() if value is not None]
    dropped = [(source_id, audience, key) for key, value in cursors.items() if value is None]
    journal._many("put_cursor", kept)
    journal._many("drop_cursor", dropped)


def forget_readings(journal: Journal, source_id: int, key: str) -> None:
    """Forget what was read of one run or model, so that its source states it whole again."""
    with journal._transaction("forgetting what was read"):
        journal._run("forget_cursors", {"source_id": source_id, "prefix": f"{key}/"})
        journal._forgotten.append((source_id, f"{key}/"))


def forgotten(journal: Journal) -> int:
    """Return how often readings were forgotten in this process."""
    return len(journal._forgotten)


class JournalCursors:
    """The committed cursors of one source for one audience (see ``syncd.sources.base.Cursors``)."""

    def __init__(self, journal: Journal, source_id: int, audience: int) -> None:
        self._journal = journal
        self._parameters = {"source_id": source_id, "audience": audience}

    def load(self, key: str) -> bytes | None:
        """Return the committed cursor of that key, or None."""
        value = self._journal._one("cursor", {**self._parameters, "key": key})
        return bytes(value) if value is not None else None

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the committed keys that start with ``prefix``, in order, a page at a time."""
        after = ""
        while rows := self._journal._fetch("cursor_keys", {**self._parameters, "prefix": prefix, "after": after}):
            yield from (row[0] for row in rows)
            after = rows[-1][0]
