"""What a gateway needs to understand a subject alone: the heads it refers to, and the session of its family."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from syncd.core.changes import Change, Head, parse
from syncd.core.facts import ExperimentSeen, ModelSeen, SubjectKey
from syncd.core.relay.packing import Address
from syncd.core.relay.values import MOST_ABOUT, RelayOrigin
from syncd.journal import subjects
from syncd.journal.subjects import Subject
from syncd.runtime.lanes import HeadUnknown
from syncd.runtime.relay_channel import RelayChannel
from syncd.runtime.wanted import is_wanted

# What a message may refer to, less the subject, its experiment and its parent.
MOST_LINKED = MOST_ABOUT - 3


class Surroundings:
    """What one subject of the journal stands in."""

    def __init__(self, channel: RelayChannel, subject: Subject) -> None:
        self._channel = channel
        self._subject = subject

    async def address(self, linked: Iterable[Head] = ()) -> Address:
        """Return who speaks of what, and what goes with it.

        Raises:
            HeadUnknown: the source has not stated it yet.
        """
        subject = self._subject
        own, experiment = subject.head, await self._experiment(subject)
        if own is None or experiment is None:
            raise HeadUnknown(f"{subject.key.kind} {subject.key.id} has not been described by its source yet")
        told = (own, experiment, await self._wanted_parent(subject), *linked)
        heads = {head.subject: _reference(head) for head in told if head is not None}
        return Address(self._origin(), subject.key, list(heads.values()))

    def _origin(self) -> RelayOrigin:
        source = self._channel.source_names.get(self._subject.source_id, "")
        return RelayOrigin(*self._channel.journal_identity, self._channel.daemon, source)

    async def _experiment(self, subject: Subject) -> Head | None:
        if subject.experiment_id is None:
            return subject.head if isinstance(subject.head, ExperimentSeen) else None
        return (await self._channel.journal.do(subjects.subject, subject.experiment_id)).head

    async def _wanted_parent(self, subject: Subject) -> Head | None:
        parent = await self._parent(subject)
        return parent.head if parent is not None and await is_wanted(self._channel, parent) else None

    async def _parent(self, subject: Subject) -> Subject | None:
        """Return a run's parent, or the run that made a model."""
        return await self._find("run", subject.parent_key) if subject.parent_key else None

    async def _find(self, kind: str, key: str) -> Subject | None:
        found = await self._channel.journal.do(subjects.find_subject, self._subject.source_id, kind, key)
        return None if found is None else await self._channel.journal.do(subjects.subject, found)

    async def session(self) -> str:
        """Return the session of the subject's family: of its topmost run, as far as that is known."""
        subject, seen = self._subject, set[str]()
        top = f"{subject.key.kind} {subject.key.store} {subject.key.id}"
        while subject.parent_key and subject.parent_key not in seen:
            seen.add(subject.parent_key)
            top = f"run  {subject.parent_key}"
            parent = await self._parent(subject)
            if parent is None:
                break
            subject = parent
        bucket = int.from_bytes(hashlib.blake2b(top.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        return f"syncd-{bucket % self._channel.sessions}"

    async def linked(self, change: Change) -> dict[SubjectKey, Head] | None:
        """Return the heads of the models that a change links to; None if the source may state one of them yet.

        With a model goes what it is created with, its experiment and the run that made it: its own messages may go to
        another syncd. Of more than a message may refer to, models come first, and their own messages tell the rest.
        """
        models: dict[SubjectKey, Head] = {}
        around: dict[SubjectKey, Head] = {}
        for key in _models_of(change):
            model = await self._find("model", key)
            if model is not None and model.head is not None:
                if await is_wanted(self._channel, model):
                    models[model.key] = model.head
                    beside = (await self._experiment(model), await self._wanted_parent(model))
                    around |= {head.subject: head for head in beside if head is not None}
            elif self._channel.is_yet_to_be_read(self._subject.source_id, change.seq):
                await self._channel.read_again(self._subject.source_id, "")
                return None
        return dict(islice((models | around).items(), MOST_LINKED))


def _models_of(change: Change) -> Iterator[str]:
    if change.kind == "inputs":
        yield from parse(change.body)["models"]
    elif change.kind == "outputs":
        yield from (model for model, _ in parse(change.body))


def _reference(head: Head) -> Head:
    """Return what is needed to know which it is: what it holds, its own messages tell."""
    match head:
        case ExperimentSeen():
            return replace(head, tags={})
        case ModelSeen():
            return replace(head, params={}, tags={})
    return head
