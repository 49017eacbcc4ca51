"""``syncd run``: follow every source, supply every destination, until told to stop.

The first SIGTERM or SIGINT stops reading, drains what waits for at most ``shutdown_grace_s`` and leaves the rest in the
journal; a second one ends the process at once, which loses nothing either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import structlog

from syncd.configuration.model import Configuration
from syncd.core.first_cause import first_cause
from syncd.errors import JournalCorrupt
from syncd.journal.journal import Journal
from syncd.runtime.arena import use_one_arena
from syncd.runtime.event_feeds import EventFeeds
from syncd.runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from syncd.runtime.message_assembly import MessageOpening

log = structlog.get_logger(__name__)

FEED_GRACE_S = 2.0
KILLED_BY_SECOND_SIGNAL = 128 + signal.SIGTERM


async def run_daemon(configuration: Configuration) -> None:
    """Run until a signal.

    A journal that turns out to be damaged while it is used is put aside and everything begins anew, once a minute at
    most.

    Raises:
        JournalError: the state directory cannot be used.
    """
    use_one_arena()
    stop = asyncio.Event()
    _stop_on_signals(stop)
    begun_s = time.monotonic()
    state_dir = configuration.daemon.state_dir
    event_source = f"syncd/{configuration.daemon.name or socket.gethostname()}"
    journal = Journal.open(state_dir, event_source=event_source)
    while True:
        try:
            await _serve(configuration, journal, stop)
            return
        except JournalCorrupt as error:
            if time.monotonic() - begun_s < 60:
                raise
            log.error("the journal was damaged while in use; it is put aside and rebuilt", error=str(error))
            begun_s = time.monotonic()
            journal = Journal.open(state_dir, condemned=True, event_source=event_source)


async def _serve(configuration: Configuration, journal: Journal, stop: asyncio.Event) -> None:
    pipeline = Pipeline(
        journal,
        daemon=configuration.daemon,
        sources=configuration.sources,
        destinations=configuration.destinations,
        messages=_message_openings(configuration),
    )
    log.info(
        "syncd runs",
        state_dir=str(configuration.daemon.state_dir),
        sources=[source.name for source in (*configuration.sources, *configuration.message_sources)],
        destinations=[destination.name for destination in configuration.destinations],
    )
    feeds = EventFeeds(journal, daemon=configuration.daemon, sinks=configuration.sinks)
    try:
        async with asyncio.TaskGroup() as group:
            fed = feeds.start(group)
            served = _start_serving(group, pipeline, configuration)
            uploads = pipeline.start_uploading(group)
            follows = pipeline.start_following(group)
            await stop.wait()
            for task in follows:
                task.cancel()
            await asyncio.wait(follows)
            await _drain(pipeline, configuration.daemon.shutdown_grace_s)
            await _feed_the_rest(feeds)
            for task in [*uploads, *fed, *served]:
                task.cancel()
    except BaseExceptionGroup as errors:
        raise first_cause(errors) from errors
    finally:
        await feeds.close()
        await pipeline.close()


def _message_openings(configuration: Configuration) -> list[MessageOpening]:
    """Return how the sources of messages are opened; what they need is imported only if there are any."""
    if not configuration.message_sources:
        return []
    from syncd.runtime.message_assembly import message_opening

    return [message_opening(settings) for settings in configuration.message_sources]


def _start_serving(
    group: asyncio.TaskGroup, pipeline: Pipeline, configuration: Configuration
) -> list[asyncio.Task[None]]:
    """Start the HTTP server if one is configured; what it needs is imported only then."""
    http = configuration.http
    if http is None:
        return []
    from syncd.http.server import HttpServer
    from syncd.runtime.serving import Serving, hooks_of

    serving = Serving(pipeline, daemon=configuration.daemon, liveness_window_s=http.liveness_window_s)
    token = http.token.reveal() if http.token is not None else ""
    server = HttpServer(serving, host=http.host, port=http.port, token=token, hooks=hooks_of(pipeline))
    return [
        group.create_task(server.run(), name="serve HTTP"),
        group.create_task(serving.look_again_and_again(), name="look whether it moves"),
    ]


async def _drain(pipeline: Pipeline, grace_s: float) -> None:
    log.info("stopping; what waits is sent first", grace_s=grace_s)
    try:
        async with asyncio.timeout(grace_s):
            await pipeline.drained()
    except TimeoutError:
        log.warning("time is up; what still waits stays in the journal and is sent at the next start")
    else:
        log.info("everything was delivered")


async def _feed_the_rest(feeds: EventFeeds) -> None:
    """Let sinks that answer have what was told while the rest was drained; the others get it at the next start."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FEED_GRACE_S):
            await feeds.drained()


def _stop_on_signals(stop: asyncio.Event) -> None:
    def on_signal() -> None:
        if stop.is_set():
            os._exit(KILLED_BY_SECOND_SIGNAL)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
