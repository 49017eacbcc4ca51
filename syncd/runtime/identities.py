"""Identities: which remote experiment, run or model is which local one. Creates what is missing, once.

A run is looked up by its source tag before it is created, and again before a create that was refused or whose answer
was lost is repeated. Only an experiment that this process has created a moment ago is known to be empty. Each run
carries the session of the process that created it, so that a look can leave out what this process has created and
knows. Two daemons that create the same run in the same moment find both afterwards (``twins``), choose the same one
and the loser discards its own.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from weakref import WeakValueDictionary

import structlog

from syncd.core import source_tags
from syncd.core.changes import Section, merge_small
from syncd.core.facts import ExperimentSeen, ModelSeen, RunSeen
from syncd.core.names import held_name
from syncd.core.requests import CreateModel, CreateRun, LogBatch, LogModelParams, SetExperimentTags
from syncd.core.run_tags import OWN_TAGS, fit_run_tags
from syncd.destinations.base import RemoteExperiment, RemoteSubject
from syncd.errors import AuthFailed, OverLimit, Rejected
from syncd.journal import bindings, deliveries, overflow, subjects
from syncd.journal.bindings import Binding, CreatedSubject
from syncd.journal.subjects import Subject
from syncd.runtime.channel import Channel
from syncd.runtime.lanes import HeadUnknown
from syncd.runtime.wanted import is_wanted

log = structlog.get_logger(__name__)

# Tags put into the create call; the rest follows by log-batch.
CREATE_TAGS = 90
# What a look found missing may be created without another look for so long after its answer.
LOOK_HOLDS_S = 1.0
# What another syncd creates is there so long after the look that came before it: the request has waited for
# ``LOOK_HOLDS_S`` at most, then it takes as long as ours do, or twice as long.
LANDS_LEAST_S = 1.0
LANDS_MOST_S = 30.0
CREATES_MEASURED = 50
# A look asks for the runs that are created next, too: one request may tell about all.
LOOK_AHEAD = 7
# So long after the first look for a model that another daemon creates comes the second one.
MODEL_PAUSE_S = 1.0
# A model's run is stated within seconds of the model, if it is in the store at all.
RUN_PATIENCE_MS = 10_000


class Identities:
    """Resolves subjects of the journal to subjects of one destination."""

    def __init__(
        self, channel: Channel, *, wall_ms: Callable[[], int], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._channel = channel
        self._wall_ms = wall_ms
        self._session = uuid.uuid4().hex
        self._locks: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()
        self._monotonic = monotonic
        self._created_s: dict[str, float] = {}  # when this process created an experiment
        self._created_tags: dict[int, Mapping[str, str]] = {}
        self._looking: dict[tuple[str, str], asyncio.Lock] = {}
        self._looked: dict[tuple[str, str], dict[str, tuple[RemoteSubject | None, float]]] = {}
        self._uncertain: set[str] = set()  # what this process may have created and has not recorded
        self._creates_s: deque[float] = deque(maxlen=CREATES_MEASURED)  # how long they took
        self._last_create_s = float("-inf")
        self._has_company = False
        self._model_looks: dict[int, tuple[float, float]] = {}  # when each is due, and the pause after it (s)

    def created_tags(self, subject_id: int) -> Mapping[str, str]:
        """Return, once, the tags that went with the create of that run in this process."""
        return self._created_tags.pop(subject_id, {})

    async def ensure(self, subject_id: int, *, above: frozenset[int] = frozenset()) -> Binding:
        """Return the subject's identity, creating it and what it depends on where missing.

        ``above`` holds the subjects that wait for this one, against circles of parents.

        Raises:
            HeadUnknown: the source has not stated it yet.
            Rejected: the destination refuses it.
        """
        lock = self._locks.setdefault(subject_id, asyncio.Lock())
        async with lock:
            binding = await self._channel.journal.do(bindings.binding, self._channel.id, subject_id)
            if binding is not None:
                return binding
            subject = await self._channel.journal.do(subjects.subject, subject_id)
            match subject.head:
                case ExperimentSeen():
                    return await self._bind_experiment(subject, subject.head)
                case RunSeen():
                    return await self._bind_run(subject, subject.head, above | {subject_id})
                case ModelSeen():
                    return await self._bind_model(subject, subject.head, above | {subject_id})
                case None:
                    raise HeadUnknown(f"{subject.key.kind} {subject.key.id} has not been described by its source yet")

    async def _bind(self, subject: Subject, binding: Binding) -> Binding:
        await self._channel.journal.do(bindings.bind, self._channel.id, subject.id, binding)
        self._uncertain.discard(subject.key.id)
        self._model_looks.pop(subject.id, None)
        return binding

    async def _bind_remote(self, subject: Subject, remote: RemoteSubject, experiment: Binding) -> Binding:
        return await self._bind(subject, Binding(remote.id, remote.artifact_root, remote.adopted, experiment.appends))

    async def _bind_experiment(self, subject: Subject, head: ExperimentSeen) -> Binding:
        remote = await self._ensure_experiment(head.name)
        if remote.created:
            self._created_s[remote.id] = self._monotonic()
        if remote.name != head.name:
            await self._tell_whole_name(remote.id, head.name)
        return await self._bind(subject, Binding(remote.id, "", adopted=not remote.created, appends=remote.appends))

    async def _ensure_experiment(self, name: str) -> RemoteExperiment:
        while True:
            held = held_name(name, self._channel.limits.experiment_name_length)
            try:
                return await self._channel.courier.call(
                    lambda held=held: self._channel.destination.ensure_experiment(held)  # type: ignore[misc]
                )
            except OverLimit as error:
                if not self._channel.learn(error):
                    raise

    async def _tell_whole_name(self, experiment_id: str, name: str) -> None:
        request = SetExperimentTags(experiment_id, {source_tags.EXPERIMENT_NAME: name})
        try:
            await self._channel.courier.call(lambda: self._channel.destination.send(request))
        except Rejected as error:
            log.warning("an experiment's name is too long for the destination", name=name, error=str(error))

    async def _experiment(self, subject: Subject, above: frozenset[int]) -> Binding:
        if subject.experiment_id is None:
            raise HeadUnknown(f"the experiment of {subject.key.kind} {subject.key.id} is not known yet")
        return await self.ensure(subject.experiment_id, above=above)

    async def remote_run(self, source_id: int, key: str, *, above: frozenset[int] = frozenset()) -> Binding | None:
        """Return the identity of a run by its id in the store.

        None if no such run was seen, if it waits for this one, or if the destination refuses it or does not want it.
        """
        found = await self._channel.journal.do(subjects.find_subject, source_id, "run", key)
        if found is None:
            return None
        binding = await self._channel.journal.do(bindings.binding, self._channel.id, found)
        if binding is not None:
            return binding
        if found in above or await self._leads_back(found, above):
            return None
        return await self._ensure_named(found, above=above)

    async def _ensure_named(self, subject_id: int, *, above: frozenset[int] = frozenset()) -> Binding | None:
        """Create what a run names; None if the destination refuses it or does not want it."""
        subject = await self._channel.journal.do(subjects.subject, subject_id)
        if not await is_wanted(self._channel, subject):
            return None
        try:
            return await self.ensure(subject_id, above=above)
        except Rejected as error:
            log.info("refused, though a run names it", kind=subject.key.kind, id=subject.key.id, error=str(error))
            return None

    async def _leads_back(self, subject_id: int, above: frozenset[int]) -> bool:
        """Whether the run's parents lead to one of ``above``: two lanes would wait for each other."""
        seen: set[int] = set()
        at: int | None = subject_id
        while at is not None and at not in seen:
            seen.add(at)
            subject = await self._channel.journal.do(subjects.subject, at)
            if not subject.parent_key:
                return False
            at = await self._channel.journal.do(subjects.find_subject, subject.source_id, "run", subject.parent_key)
            if at in above:
                return True
        return False

    async def remote_model(self, source_id: int, key: str) -> Binding | None:
        """Return the identity of a model by its id in the store.

        None if no such model was seen, or if the destination refuses it or does not want it.
        """
        found = await self._channel.journal.do(subjects.find_subject, source_id, "model", key)
        if found is None:
            return None
        binding = await self._channel.journal.do(bindings.binding, self._channel.id, found)
        return binding or await self._ensure_named(found)

    async def adopt_model(self, subject_id: int) -> Binding | None:
        """Return the identity of a model that another daemon is expected to create; None if it is not seen there.

        It is looked for at the first call, and at later ones after pauses that become longer. No model is created, only
        its experiment.
        """
        channel = self._channel
        async with self._locks.setdefault(subject_id, asyncio.Lock()):
            due_s, pause_s = self._model_looks.get(subject_id, (float("-inf"), MODEL_PAUSE_S))
            if self._monotonic() < due_s:
                return None
            self._model_looks[subject_id] = (self._monotonic() + pause_s, 2 * pause_s)
            subject = await channel.journal.do(subjects.subject, subject_id)
            async with self._alone(subject):
                kind, key = subject.key.kind, subject.key.id
                try:
                    experiment = await self._experiment(subject, frozenset())
                    found = await channel.courier.call(
                        lambda: channel.destination.find(kind, experiment.remote_id, [key])
                    )
                except (HeadUnknown, Rejected) as error:
                    log.info("a linked model cannot be looked for", model=key, error=str(error))
                    return None
                if key not in found:
                    return None
                return await self._bind_remote(subject, found[key], experiment)

    async def _bind_run(self, subject: Subject, head: RunSeen, above: frozenset[int]) -> Binding:
        experiment = await self._experiment(subject, above)
        tags = await self._tags_for_create(subject)
        if head.parent_run_id:
            parent = await self.remote_run(subject.source_id, head.parent_run_id, above=above)
            tags[source_tags.PARENT_RUN_ID] = parent.remote_id if parent else head.parent_run_id
        request = CreateRun(experiment.remote_id, head.name or head.subject.id, head.user_id, head.start_time_ms, tags)
        async with self._alone(subject):
            remote, request = await self._find_or_create_run(subject, experiment.remote_id, request)
            # Before it is recorded: should this process end here, the next one finds the run and tells them again.
            await self._tell_children(subject, remote.id)
            if not remote.adopted:
                self._created_tags[subject.id] = {**request.tags, source_tags.RUN_NAME: request.name}
            return await self._bind_remote(subject, remote, experiment)

    async def _tags_for_create(self, subject: Subject) -> dict[str, str]:
        """Return what tells where the run comes from, and the first of its own tags."""
        changes = await self._channel.journal.do(
            deliveries.pending, self._channel.id, subject.id, Section.SMALL, limit=1000
        )
        stated = {key: tag for key, tag in merge_small(changes).tags.items() if key not in OWN_TAGS}
        own = {
            source_tags.SOURCE_RUN_ID: subject.key.id,
            source_tags.SOURCE: self._source_name(subject),
            source_tags.SESSION: self._session,
        }
        return {**dict(islice(stated.items(), CREATE_TAGS)), **own}

    def _source_name(self, subject: Subject) -> str:
        """Return the name of the source that has read it, on whichever machine that was."""
        origin = "" if isinstance(subject.head, ExperimentSeen | None) else subject.head.origin
        return origin or self._channel.source_names[subject.source_id]

    async def _find_or_create_run(
        self, subject: Subject, experiment_id: str, wanted: CreateRun
    ) -> tuple[RemoteSubject, CreateRun]:
        """Find or create the run with as much of its name and tags as fits; return what it was created with."""
        while True:
            limits = self._channel.limits
            own = {key: tag for key, tag in wanted.tags.items() if key in OWN_TAGS}  # without them it is not found
            fits = fit_run_tags(wanted.tags, limits, ()).fits
            request = replace(wanted, name=held_name(wanted.name, limits.run_name_length), tags={**fits, **own})
            try:
                return await self._find_or_create(subject, experiment_id, request), request
            except OverLimit as error:
                if not self._channel.learn(error):
                    if wanted.tags == own:
                        raise
                    wanted = replace(wanted, tags=own)

    async def _tell_children(self, subject: Subject, remote_id: str) -> None:
        """Point children that were created before this run at it."""
        children = await self._channel.journal.do(
            bindings.bound_children, self._channel.id, subject.source_id, subject.key.id
        )
        for child in children:
            request = LogBatch(child, tags={source_tags.PARENT_RUN_ID: remote_id})
            try:
                await self._channel.courier.call(lambda request=request: self._channel.destination.send(request))  # type: ignore[misc]
            except Rejected as error:
                log.info("a child could not be pointed at its parent", child=child, error=str(error))

    async def _bind_model(self, subject: Subject, head: ModelSeen, above: frozenset[int]) -> Binding:
        experiment = await self._experiment(subject, above)
        run = await self.remote_run(subject.source_id, head.source_run_id, above=above) if head.source_run_id else None
        if run is None and head.source_run_id and abs(self._wall_ms() - subject.changed_ms) < RUN_PATIENCE_MS:
            raise HeadUnknown(f"the run {head.source_run_id} of model {subject.key.id} is not known yet")
        tags = {
            **head.tags,
            source_tags.SOURCE_MODEL_ID: subject.key.id,
            source_tags.SOURCE: self._source_name(subject),
        }
        most = self._channel.limits.batch_params
        first, rest = dict(list(head.params.items())[:most]), dict(list(head.params.items())[most:])
        request = CreateModel(
            experiment.remote_id, head.name, head.model_type, run.remote_id if run else "", first, tags
        )
        async with self._alone(subject):
            remote = await self._find_or_create(subject, experiment.remote_id, request)
            if rest:
                more = LogModelParams(remote.id, rest)
                await self._channel.courier.call(lambda: self._channel.destination.send(more))
            return await self._bind_remote(subject, remote, experiment)

    def _alone(self, subject: Subject) -> asyncio.Lock:
        """Return the lock of its id: the same run may be here twice, of a store that is read under two names."""
        return self._locks.setdefault((subject.key.kind, subject.key.id), asyncio.Lock())

    async def _find_or_create(
        self, subject: Subject, experiment_id: str, request: CreateRun | CreateModel
    ) -> RemoteSubject:
        """Return the subject's twin there, or create it.

        What a look has found missing is taken to be missing for ``LOOK_HOLDS_S`` only, however long the create has to
        wait: by then another daemon may have created it, and have looked for twins for the last time (``twins``).
        """
        channel = self._channel
        kind, key = subject.key.kind, subject.key.id
        looked_s = self._created_s.get(experiment_id, float("-inf"))
        certain = key not in self._uncertain and not await channel.journal.do(
            bindings.is_key_bound, channel.id, subject.key
        )
        if certain and self._monotonic() - looked_s > LOOK_HOLDS_S:
            found, looked_s = await self._first_look(subject, experiment_id)
            if found is not None:
                return found

        async def look_and_create() -> RemoteSubject:
            nonlocal looked_s
            if not certain or self._monotonic() - looked_s > LOOK_HOLDS_S:
                there = (await channel.destination.find(kind, experiment_id, [key])).get(key)
                if there is not None:
                    self._has_company = True
                    return there
            looked_s = float("-inf")  # whatever becomes of this create, another one looks first
            self._uncertain.add(key)
            begun_s = self._monotonic()
            try:
                return await channel.destination.create(request)
            finally:
                self._last_create_s = self._monotonic()
                self._creates_s.append(self._last_create_s - begun_s)

        return await channel.courier.call(look_and_create, urgent=True)

    async def _first_look(self, subject: Subject, experiment_id: str) -> tuple[RemoteSubject | None, float]:
        """Look the subject up, and with it others of its experiment that will be created next.

        The first look at an experiment is for all of them, which tells about a store that is brought over again.

        Returns:
            What is there, and when that was answered (monotonic s).
        """
        channel = self._channel
        kind, key = subject.key.kind, subject.key.id
        lock = self._looking.setdefault((kind, experiment_id), asyncio.Lock())
        async with lock:
            ahead = {"after": subject.id, "limit": LOOK_AHEAD} if (kind, experiment_id) in self._looked else {}
            looked = self._looked.setdefault((kind, experiment_id), {})
            if self._monotonic() - looked.get(key, (None, float("-inf")))[1] > LOOK_HOLDS_S:
                keys = await channel.journal.do(bindings.unbound_keys, channel.id, subject, **ahead)
                wanted = {key, *keys} - self._uncertain
                found = await channel.courier.call(
                    lambda: channel.destination.find(kind, experiment_id, wanted, besides=self._session), urgent=True
                )
                answered_s = self._monotonic()
                self._has_company = self._has_company or bool(found)
                looked.update({one: (found.get(one), answered_s) for one in wanted})
            return looked.pop(key)

    @property
    def twins_after_s(self) -> float:
        """How long after a create a twin of it may yet come to be there."""
        lands_s = 2 * max(self._creates_s, default=0.0)
        return LOOK_HOLDS_S + min(max(lands_s, LANDS_LEAST_S), LANDS_MOST_S)

    async def twins_are_there(self) -> None:
        """Wait until what was created last has its twin, if it gets one.

        Where creating is quick and nothing was seen that another has created, there is no waiting.
        """
        if self._has_company or max(self._creates_s, default=0.0) > LANDS_LEAST_S:
            await asyncio.sleep(max(0.0, self._last_create_s + self.twins_after_s - self._monotonic()))

    async def twins(self, before_ms: int) -> list[tuple[int, RemoteSubject]]:
        """Return the runs and models created before then of which another daemon created a twin that is to stay.

        Both daemons look after they have created, so at least one of them sees both; ``find`` makes all choose the
        same one. Those that have no twin are not looked at again.
        """
        channel = self._channel
        unchecked = await channel.journal.do(bindings.unchecked, channel.id, before_ms)
        lost = []
        unchecked_still: set[int] = set()
        for kind, experiment_id in sorted({(one.kind, one.experiment_id) for one in unchecked}):
            mine = [one for one in unchecked if (one.kind, one.experiment_id) == (kind, experiment_id)]
            try:
                lost += await self._twins_in(kind, experiment_id, mine)
            except Rejected as error:  # for good: what waits for this look would wait for ever
                log.warning("cannot look for twins", kind=kind, experiment=experiment_id, error=str(error))
            except AuthFailed as error:
                log.warning("may not look for twins now", kind=kind, experiment=experiment_id, error=str(error))
                unchecked_still |= {one.subject_id for one in mine}
        self._has_company = self._has_company or bool(lost)
        losers = {subject_id for subject_id, _ in lost}
        unique = [one.subject_id for one in unchecked if one.subject_id not in losers | unchecked_still]
        await channel.journal.do(bindings.mark_checked, channel.id, unique)
        return lost

    async def _twins_in(
        self, kind: str, experiment_id: str, mine: list[CreatedSubject]
    ) -> list[tuple[int, RemoteSubject]]:
        keys = {one.key for one in mine}
        found = await self._channel.courier.call(
            lambda: self._channel.destination.find(kind, experiment_id, keys, besides=self._session)
        )
        return [
            (one.subject_id, found[one.key]) for one in mine if one.key in found and found[one.key].id != one.remote_id
        ]

    async def give_way(self, subject_id: int, other: RemoteSubject) -> None:
        """Take the twin as the identity, discard our own, and have the source stated whole once more."""
        channel = self._channel
        subject = await channel.journal.do(subjects.subject, subject_id)
        binding = await channel.journal.do(bindings.binding, channel.id, subject_id)
        assert binding is not None
        kind, key = subject.key.kind, subject.key.id
        log.info("another syncd created the same; keeping the other", kind=kind, id=key, kept=other.id)
        await channel.read_again(subject.source_id, key)
        try:
            await channel.courier.call(lambda: channel.destination.discard(kind, binding.remote_id))
        except Rejected as error:
            log.info("the second one is already gone", kind=kind, id=binding.remote_id, answer=str(error))
        if kind == "run":
            await self._tell_children(subject, other.id)
        await channel.journal.do(overflow.forget, channel.id, subject_id)  # it went with ours
        self._created_tags.pop(subject_id, None)  # so did they
        await self._bind(subject, Binding(other.id, other.artifact_root, adopted=True, appends=binding.appends))
