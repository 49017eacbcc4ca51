"""The pipeline: journal, intakes and uploaders of one process, wired.

``syncd run`` and ``syncd sync`` use the same pipeline and differ only in how they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from syncd.configuration.model import DaemonSettings, DestinationSettings, SourceSettings
from syncd.configuration.relay_settings import RelaySettings
from syncd.errors import DestinationError
from syncd.journal import committing, deliveries, participants
from syncd.journal.journal import Journal
from syncd.journal.participants import DestinationRow
from syncd.runtime.assembly import StoreOpening, open_artifact, open_way, store_openings
from syncd.runtime.channel import Supply
from syncd.runtime.courier import Courier, DestinationState
from syncd.runtime.intake import Intake, IntakeSettings
from syncd.runtime.journal_thread import JournalThread
from syncd.runtime.rests import Rests
from syncd.runtime.totals import Totals
from syncd.runtime.uploader import Uploader

if TYPE_CHECKING:
    from syncd.runtime.message_assembly import MessageOpening
    from syncd.runtime.message_intake import MessageIntake

log = structlog.get_logger(__name__)

BEFORE_NOW_MS = 2**62  # any time there will be
REFUSED_RETRY_S = 60.0
# What a killed process had sent may be applied after its end: before that it would not be found, and created again.
LAND_S = 1.0


@dataclass(frozen=True, slots=True)
class _Source:
    """A store of a source, known to the journal."""

    id: int
    opening: StoreOpening


class Pipeline:
    """Everything between the sources and the destinations of one process.

    Use: ``async with TaskGroup() as group: pipeline.start(group)``; then ``drained`` or cancel; at last ``close``.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        daemon: DaemonSettings,
        sources: Sequence[SourceSettings],
        destinations: Sequence[DestinationSettings | RelaySettings],
        messages: Sequence[MessageOpening] = (),
    ) -> None:
        self.journal = JournalThread(journal)
        self._daemon = daemon
        self.rests = Rests(journal)
        self._sources = [
            _Source(participants.register_source(journal, opening.journal_name), opening)
            for settings in sources
            for opening in store_openings(settings, temp_dir=Path(daemon.state_dir))
        ]
        self._messages = [(participants.register_message_source(journal, one.settings.name), one) for one in messages]
        # Of what is no longer configured, what came in messages still did, of a queue that others may have read.
        gone = (
            participants.message_sources(journal)
            - {one.id for one in self._sources}
            - {id_ for id_, _ in self._messages}
        )
        self._told_once = [*(source_id for source_id, _ in self._messages), *gone]
        self._shared = [*(source_id for source_id, one in self._messages if one.settings.is_shared), *gone]
        # What was committed before may have been handed to another daemon as well, had it not been settled in time.
        deliveries.doubt_points(journal, self._shared)
        # What was read of a source that is no longer configured is still delivered, under its name.
        self._source_names = {
            **participants.source_names(journal),
            **{source.id: source.opening.source.name for source in self._sources},
            **{source_id: opening.settings.name for source_id, opening in self._messages},
        }
        self._settings = {settings.name: settings for settings in destinations}
        self._rows = participants.register_destinations(
            journal, {name: settings.uri for name, settings in self._settings.items()}
        )
        self.couriers: dict[str, Courier] = {}
        self.uploaders: dict[int, Uploader] = {}
        self._ready = {row.id: asyncio.Event() for row in self._rows.values()}
        self._ways = {name: open_way(self._settings[name], daemon=daemon.name) for name in self._rows}
        for name, row in self._rows.items():
            self.couriers[name] = Courier(
                name,
                most=self._settings[name].max_concurrency,
                on_state=self._recorder(row),
                ask=self._ways[name].probe,
            )
        self.intakes = [self._intake(source, audience) for source in self._sources for audience in self._audiences()]
        self.message_intakes = self._open_message_intakes([one.name for one in sources]) if messages else []
        self.rests.tell(self._look_at_uploaders)

    def _audiences(self) -> list[int]:
        return sorted({row.audience for row in self._rows.values()})

    def _intake(self, source: _Source, audience: int) -> Intake:
        options = source.opening.source
        return Intake(
            name=options.name,
            open_source=source.opening.open,
            journal=self.journal.journal,
            source_id=source.id,
            audience=audience,
            settings=IntakeSettings(
                poll_interval_s=options.poll_interval_s,
                reconcile_interval_s=options.reconcile_interval_s,
                watch=options.watch,
                stale_after_s=options.stale_after_s,
                journal_max_bytes=self._daemon.journal_max_bytes,
            ),
            announce=self._announce,
            rests=self.rests,
        )

    def _open_message_intakes(self, stores: Sequence[str]) -> list[MessageIntake]:
        from syncd.runtime.message_assembly import Names, message_intakes  # 1 MiB that only messages need

        return message_intakes(
            self._messages,
            journal=self.journal.journal,
            daemon=self._daemon,
            rests=self.rests,
            names=Names(stores, list(self._settings)),
            announce=self._announce,
            obey=self._obey,
        )

    def _obey(self, name: str, arguments: Mapping[str, str]) -> None:
        """Do what a command wants that a message has given."""
        if name == "sync":
            for intake in self.intakes:
                if intake.name == arguments["source"]:
                    intake.look_wholly()
        else:
            self.rests.look()

    def _look_at_uploaders(self) -> None:
        for uploader in self.uploaders.values():
            uploader.look()

    def _announce(self, waiting: Mapping[int, Collection[int]], since_s: float | None = None) -> None:
        for destination_id, subjects in waiting.items():
            uploader = self.uploaders.get(destination_id)
            if uploader is not None:
                uploader.notify(subjects, since_s=since_s)
            # An uploader that is not there yet loads what waits from the journal when it begins.

    def _recorder(self, row: DestinationRow) -> Callable[[DestinationState], Awaitable[None]]:
        async def record(state: DestinationState) -> None:
            if state.name == "up":
                await self.journal.do(participants.destination_up, row.id)
            else:
                await self.journal.do(participants.destination_trouble, row.id, state.name, state.error)

        return record

    # -- running ---------------------------------------------------------------------------------------------------

    def start_uploading(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start one task for each destination; each begins once its server has been reached."""
        return [group.create_task(self._upload(row), name=f"upload {row.name}") for row in self._rows.values()]

    def start_following(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start one task for each store and each source of messages."""
        intakes: list[Intake | MessageIntake] = [*self.intakes, *self.message_intakes]
        return [group.create_task(intake.run(), name=f"follow {intake.name}") for intake in intakes]

    async def _upload(self, row: DestinationRow) -> None:
        version = await self._reach(row)
        log.info("the destination answers", destination=row.name, version=version or "unknown")
        lanes = self._ways[row.name].lanes(self._supply(row))
        uploader = Uploader(lanes, flush_interval_s=self._daemon.flush_interval_s)
        self.uploaders[row.id] = uploader
        self._ready[row.id].set()
        if self.journal.journal.was_abandoned:
            await asyncio.sleep(LAND_S)
        await uploader.run()

    async def _reach(self, row: DestinationRow) -> str:
        """Return the server's version; one that is refused beside others is tried again, and the others go on."""
        while True:
            try:
                return await self.couriers[row.name].call(self._ways[row.name].probe)
            except DestinationError as error:
                if len(self._rows) == 1:
                    raise
                log.error("the destination cannot be used; it is tried again", destination=row.name, error=str(error))
                await self.journal.do(participants.destination_trouble, row.id, "down", str(error))
                await asyncio.sleep(REFUSED_RETRY_S)

    def _supply(self, row: DestinationRow) -> Supply:
        settings = self._settings[row.name]
        return Supply(
            id=row.id,
            name=row.name,
            courier=self.couriers[row.name],
            journal=self.journal,
            in_flight=settings.max_concurrency + 2,  # the next ones are ready when a place becomes free
            open_artifact=open_artifact,
            read_again=self._read_again,
            source_names=self._source_names,
            filter=settings.filter,
            on_delete={
                **{source.id: source.opening.source.on_delete for source in self._sources},
                **{source_id: opening.settings.on_delete for source_id, opening in self._messages},
            },
            source_experiments={source.id: source.opening.source.experiments for source in self._sources},
            told_once=self._told_once,
            shared=self._shared,
            is_yet_to_be_read=self._is_yet_to_be_read,
            rests=lambda: self.rests.is_resting("destination", row.name),
        )

    def _is_yet_to_be_read(self, source_id: int, seq: int) -> bool:
        return any(intake.is_yet_to_read(seq) for intake in self.intakes if intake.source_id == source_id)

    async def _read_again(self, source_id: int, key: str) -> None:
        """Have a source looked at wholly soon; with a key, that run or model is stated whole once more."""
        if key:
            await self.journal.do(committing.forget_readings, source_id, key)
        for intake in self.intakes:
            if intake.source_id == source_id:
                intake.look_wholly()

    async def drained(self) -> None:
        """Wait until nothing waits for any destination but what keeps failing."""
        for ready in self._ready.values():
            await ready.wait()
        for uploader in self.uploaders.values():
            await uploader.idle()

    @property
    def is_behind(self) -> bool:
        """Whether something waits that could be delivered if its destination took it."""
        unreached = [row for row in self._rows.values() if row.id not in self.uploaders]
        return any(uploader.is_behind for uploader in self.uploaders.values()) or any(
            deliveries.has_waiting(self.journal.journal, row.id)
            for row in unreached
            if not self.rests.is_resting("destination", row.name)
        )

    async def settle_twins(self) -> bool:
        """Look whether other daemons created the same runs; return whether any gave way, so that more waits."""
        for uploader in self.uploaders.values():
            await uploader.lanes.twins_are_there()
        return any([await uploader.settle_twins(BEFORE_NOW_MS) for uploader in self.uploaders.values()])

    def totals(self) -> Totals:
        """Return what was delivered and what waits, summed over the destinations."""
        trouble = next((c.state.error for c in self.couriers.values() if c.state.failing_since_s is not None), "")
        sums = [deliveries.sums(self.journal.journal, row.id) for row in self._rows.values()]
        return Totals(**{name: sum(one[name] for one in sums) for name in sums[0]}, trouble=trouble)

    async def close(self) -> None:
        """Close sources, connections and the journal."""
        for intake in self.intakes:
            intake.close()
        for message_intake in self.message_intakes:
            await message_intake.close()
        for uploader in self.uploaders.values():
            uploader.lanes.close()
        for way in self._ways.values():
            await way.close()
        self.journal.close()
        self.journal.journal.close()
