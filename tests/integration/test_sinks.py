"""Feeds with real sinks: what is told arrives in order, signed, once in the plain case, whatever the receiver does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from syncd.configuration import DaemonSettings, EventGridSinkSettings, Secret, SinkSettings, WebhookSinkSettings
from syncd.core.changes import Section
from syncd.core.events import BATCH, STRUCTURED, Event
from syncd.errors import AuthFailed, OutcomeUnknown, Rejected, SinkGone, Transient
from syncd.journal import deliveries, outbox, participants
from syncd.journal.dead_letters import DeadLetter
from syncd.journal.journal import Journal
from syncd.runtime import courier, event_feed
from syncd.runtime.event_feeds import EventFeeds
from syncd.runtime.sink_assembly import open_sink
from syncd.schemas.checking import check
from tests.journal_filling import commit, experiment, head, run_id
from tests.standins.event_receiver import EventReceiver

SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")


def event(number: int, **more: object) -> Event:
    data = {"run_id": f"r{number}", "experiment_id": "1", "experiment_name": "churn", **more}
    return Event(
        id=f"id-{number}",
        type="dev.syncd.run.finished",
        source="syncd/h",
        subject=f"runs/r{number}",
        time_ms=1,
        data=data,
    )


def hook(receiver: EventReceiver, **more: object) -> WebhookSinkSettings:
    secrets = tuple(Secret(text, origin="file") for text in SECRETS)
    return WebhookSinkSettings(**{"name": "hook", "url": receiver.url, "secrets": secrets, "timeout_s": 5.0, **more})  # type: ignore[arg-type]


def topic(receiver: EventReceiver, **more: object) -> EventGridSinkSettings:
    url = f"http://127.0.0.1:{receiver.port}"
    return EventGridSinkSettings(**{"name": "grid", "endpoint": url, "key": Secret("k3y", origin="file"), **more})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "BACKOFF", lambda state: 0.02)
    monkeypatch.setattr(courier, "AUTH_BACKOFF", lambda state: 0.02)
    monkeypatch.setattr(event_feed, "LOOK_S", 0.1)
    monkeypatch.setattr(event_feed, "SUSPECT_AFTER_S", 0.2)


# ---------------------------------------------------------------- the sinks alone


@pytest.mark.parametrize("secret", SECRETS)
async def test_a_webhook_is_verified_by_another_implementation_with_either_secret(secret: str) -> None:
    async with EventReceiver() as receiver:
        sink = open_sink(hook(receiver))
        await sink.send([event(1), event(2, name="ünï😀")])
        await sink.close()
    for number, (headers, body) in enumerate(receiver.requests, 1):
        assert Webhook(secret).verify(body, headers)["id"] == f"id-{number}"
        assert (headers["webhook-id"], headers["content-type"]) == (f"id-{number}", STRUCTURED)
        with pytest.raises(Exception, match="signature"):
            Webhook(secret).verify(body + b" ", headers)
    assert [check("events/event", one) for one in receiver.events] == [None, None]


async def test_without_a_secret_nothing_is_signed() -> None:
    async with EventReceiver() as receiver:
        sink = open_sink(hook(receiver, secrets=()))
        await sink.send([event(1)])
        await sink.close()
    assert "webhook-signature" not in receiver.requests[0][0]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (413, Rejected),
        (422, Rejected),
        (404, Transient),
        (405, Transient),
        (409, Transient),
        (410, SinkGone),
        (401, AuthFailed),
        (302, AuthFailed),
        (429, Transient),
        (500, OutcomeUnknown),
        (503, Transient),
    ],
)
async def test_what_a_webhook_s_answer_means(status: int, error: type[Exception]) -> None:
    async with EventReceiver(status=status, headers={"Retry-After": "7"}) as receiver:
        sink = open_sink(hook(receiver))
        with pytest.raises(error) as caught:
            await sink.send([event(1)])
        await sink.close()
    assert type(caught.value) is error
    if status in (429, 503):
        assert (caught.value.retry_after_s, caught.value.throttled) == (7, True)  # type: ignore[attr-defined]


async def test_event_grid_gets_batches_with_the_key_at_the_right_address() -> None:
    async with EventReceiver() as receiver:
        sink = open_sink(topic(receiver))
        await sink.send([event(1), event(2)])
        await sink.close()
    [(headers, _)] = receiver.requests
    assert receiver.paths == ["/api/events?api-version=2018-01-01"]
    assert headers["aeg-sas-key"] == "k3y"
    assert headers["content-type"].startswith(BATCH)
    assert receiver.ids == ["id-1", "id-2"]


async def test_event_grid_cuts_what_is_too_large_for_one_request_in_order() -> None:
    large = [event(number, text="x" * 60_000) for number in range(40)]
    async with EventReceiver() as receiver:
        sink = open_sink(topic(receiver))
        await sink.send(large)
        await sink.close()
    assert max(len(body) for _, body in receiver.requests) <= 1_000_000
    assert len(receiver.requests) == 3
    assert receiver.ids == [one.id for one in large]


@pytest.mark.parametrize(("status", "error"), [(400, Rejected), (404, Transient), (401, AuthFailed), (503, Transient)])
async def test_what_event_grid_s_answer_means(status: int, error: type[Exception]) -> None:
    async with EventReceiver(status=status) as receiver:
        sink = open_sink(topic(receiver))
        with pytest.raises(error) as caught:
            await sink.send([event(1)])
        await sink.close()
    assert type(caught.value) is error


# ---------------------------------------------------------------- feeds


class Fed:
    """A journal whose events are fed to sinks."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.journal = Journal.open(state_dir, event_source="syncd/host")
        self.source = participants.register_source(self.journal, "local")
        self.there = participants.register_destinations(self.journal, {"workspace": "http://a"})["workspace"]
        self.number = 0

    def tell(self, count: int = 1, *, name: str = "churn") -> None:
        """Have ``count`` runs discovered that have ended: two events each."""
        for _ in range(count):
            self.number += 1
            run = head(self.number, status="FINISHED")
            commit(self.journal, self.source, self.there.audience, experiment(name), run)

    def told(self) -> list[Event]:
        return outbox.events_after(self.journal, 0, 10_000)

    def letters(self) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.state_dir / "journal.db")) as db:
            return db.execute("SELECT event_id, reason, status, retry FROM sink_letter ORDER BY id").fetchall()

    def sink(self, name: str = "hook") -> dict[str, object]:
        with closing(sqlite3.connect(self.state_dir / "journal.db")) as db:
            db.row_factory = sqlite3.Row
            return dict(db.execute("SELECT * FROM sink WHERE name = ?", (name,)).fetchone())

    @asynccontextmanager
    async def fed(self, *sinks: SinkSettings, **daemon: object) -> AsyncIterator[EventFeeds]:
        settings = DaemonSettings(state_dir=self.state_dir, **daemon)  # type: ignore[arg-type]
        feeds = EventFeeds(self.journal, daemon=settings, sinks=sinks)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = feeds.start(group)
                yield feeds
                for task in tasks:
                    task.cancel()
        finally:
            await feeds.close()


@pytest.fixture
def fed(tmp_path: Path) -> AsyncIterator[Fed]:
    made = Fed(tmp_path / "state")
    yield made  # type: ignore[misc]
    made.journal.close()


async def until(condition: Callable[[], object], what: str = "") -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - a database row may be what is waited for
            await asyncio.sleep(0.01)


async def test_what_is_told_arrives_in_order_once_as_it_is_in_the_outbox(fed: Fed) -> None:
    async with EventReceiver() as receiver, EventReceiver() as second, fed.fed(hook(receiver), topic(second)):
        fed.tell(40)
        await until(lambda: len(receiver.events) >= 80 and len(second.events) >= 80)
        await until(lambda: fed.sink("grid")["cursor"] == 80 == fed.sink()["cursor"])
    assert receiver.ids == [one.id for one in fed.told()] == second.ids
    assert (fed.sink()["sent"], fed.sink()["state"]) == (80, "up")


async def test_a_sink_begins_from_now_or_the_beginning(fed: Fed) -> None:
    fed.tell(2)
    async with (
        EventReceiver() as now,
        EventReceiver() as whole,
        fed.fed(hook(now), hook(whole, name="whole", begin="beginning")),
    ):
        fed.tell()
        await until(lambda: len(now.events) >= 2 and len(whole.events) >= 6)
    assert now.ids == [one.id for one in fed.told()[4:]]
    assert whole.ids == [one.id for one in fed.told()]


async def test_a_filter_lets_through_what_is_wanted_and_the_cursor_passes_the_rest(fed: Fed) -> None:
    async with EventReceiver() as receiver, fed.fed(hook(receiver, types=("run.finished",), experiments=("ch*",))):
        fed.tell(3)
        fed.tell(2, name="other")
        await until(lambda: fed.sink()["cursor"] == 10)
    assert receiver.types == ["run.finished"] * 3
    assert fed.sink()["sent"] == 3


async def test_after_an_outage_all_of_it_comes_in_order_and_nothing_else_waited(fed: Fed) -> None:
    receiver = EventReceiver()
    async with EventReceiver() as well, fed.fed(hook(receiver), hook(well, name="well")):
        fed.tell(20)
        await until(lambda: len(well.events) == 40)
        await until(lambda: fed.sink()["state"] == "down")
        run = run_id(fed.journal, fed.source, 1)
        [change] = deliveries.pending(fed.journal, fed.there.id, run, Section.HEAD)
        deliveries.settle(fed.journal, fed.there.id, run, [(Section.HEAD, change.seq)])
        assert receiver.events == []
        async with receiver:
            await until(lambda: len(receiver.events) == 40)
            await until(lambda: fed.sink()["state"] == "up")
    assert receiver.ids == [one.id for one in fed.told()]


async def test_a_throttled_sink_is_left_alone_for_as_long_as_it_asks(fed: Fed) -> None:
    async with EventReceiver(answers=[429], headers={"Retry-After": "1"}) as receiver, fed.fed(hook(receiver)):
        begun_s = asyncio.get_running_loop().time()
        fed.tell()
        await until(lambda: len(receiver.events) == 2)
        assert asyncio.get_running_loop().time() - begun_s >= 1
    assert receiver.ids == [one.id for one in fed.told()]


@pytest.mark.parametrize("make", [hook, topic])
async def test_a_poison_event_becomes_a_letter_and_the_next_goes_on(
    fed: Fed, make: Callable[..., SinkSettings]
) -> None:
    fed.tell(3)
    bad = fed.told()[2].id
    async with EventReceiver(bad_id=bad) as receiver:
        name = make(receiver).name
        async with fed.fed(make(receiver, begin="beginning")):
            await until(lambda: fed.sink(name)["cursor"] == 6)
            assert receiver.ids == [one.id for one in fed.told() if one.id != bad]
            [(event_id, reason, status, _)] = fed.letters()
            assert (event_id, status) == (bad, 422)
            assert "this one never" in str(reason)
            receiver.bad_id = ""
            with closing(sqlite3.connect(fed.state_dir / "journal.db")) as db, db:
                db.execute("UPDATE sink_letter SET retry = 1")
            await until(lambda: not fed.letters())
    assert receiver.ids[-1] == bad
    assert len(receiver.ids) == 6


async def test_an_event_for_which_the_sink_fails_while_it_takes_the_next_is_poison(fed: Fed) -> None:
    fed.tell(2)
    bad = fed.told()[1].id
    async with EventReceiver(bad_id=bad, bad_status=500) as receiver, fed.fed(hook(receiver, begin="beginning")):
        await until(lambda: fed.sink()["cursor"] == 4)
    assert [letter[0] for letter in fed.letters()] == [bad]
    assert set(receiver.ids) == {one.id for one in fed.told()} - {bad}


async def test_a_sink_that_fails_for_everything_loses_nothing(fed: Fed) -> None:
    async with EventReceiver(status=500) as receiver, fed.fed(hook(receiver)):
        fed.tell(2)
        await until(lambda: len(receiver.requests) > 40)
        assert (fed.letters(), fed.sink()["cursor"]) == ([], 0)
        receiver.mends_with = fed.told()[0].id  # between that event and the next, the first would be taken for poison
        await until(lambda: fed.sink()["cursor"] == 4)
    assert fed.letters() == []
    assert receiver.ids == [one.id for one in fed.told()]


async def test_a_receiver_that_has_gone_is_sent_no_more_until_the_next_start(fed: Fed) -> None:
    async with EventReceiver(status=410) as receiver:
        async with fed.fed(hook(receiver)):
            fed.tell(2)
            await until(lambda: fed.sink()["state"] == "gone")
            fed.tell()
            await asyncio.sleep(0.3)
        assert len(receiver.requests) == 1
        receiver.status = 200
        async with fed.fed(hook(receiver)):
            await until(lambda: len(receiver.events) == 6)


async def test_credentials_that_are_refused_park_the_sink(fed: Fed) -> None:
    async with EventReceiver(status=401) as receiver, fed.fed(topic(receiver)):
        fed.tell()
        await until(lambda: fed.sink("grid")["state"] == "auth")
        assert fed.letters() == []
        receiver.status = 200
        await until(lambda: len(receiver.events) == 2)


async def test_a_sink_that_is_away_for_too_long_loses_the_oldest_and_says_so(fed: Fed) -> None:
    fed.tell(30)
    bounds = {"events_kept": 10, "journal_max_bytes": 4096 * 40}
    async with EventReceiver(status=503) as receiver, fed.fed(hook(receiver, begin="beginning"), **bounds):
        await until(lambda: fed.sink()["dropped"] == 20)
        receiver.status = 200
        await until(lambda: len(receiver.events) >= 41)
    assert receiver.ids[1:] == [one.id for one in fed.told()], "the first was on its way"
    assert len(fed.told()) == 40


async def test_a_slow_sink_does_not_hold_the_journal(fed: Fed) -> None:
    async with EventReceiver(delay_s=0.5) as receiver, fed.fed(hook(receiver)):
        fed.tell(2)
        await until(lambda: receiver.requests)
        begun_s = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.to_thread(fed.tell, 3)
        assert asyncio.get_running_loop().time() - begun_s < 5
        assert len(fed.told()) == 10


def test_a_letter_s_words_are_json(fed: Fed) -> None:
    letter = DeadLetter(Section.HEAD, "head", b"{}", 1, "no", "X", 400)
    fed.tell()
    deliveries.settle(fed.journal, fed.there.id, run_id(fed.journal, fed.source, 1), [], dead=[letter])
    assert json.loads(json.dumps(dict(fed.told()[-1].data)))["reason"] == "no"
