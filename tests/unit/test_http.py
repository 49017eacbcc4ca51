"""Who may ask the daemon by HTTP, when it counts as stuck, and the form of its metrics."""

from __future__ import annotations

from collections import Counter

import pytest

from syncd.http.access import wrong_with
from syncd.http.counts import HttpCounts
from syncd.runtime.liveness import Liveness
from syncd.runtime.metrics import metrics_text
from syncd.sources.webhook import HookCounts


def status_of(method: str, path: str, *, token: str = "", own_host: str = "127.0.0.1", **headers: str) -> int:
    lowered = {name.lower(): value for name, value in headers.items()}
    refusal = wrong_with(method, path, lowered, token=token, own_host=own_host)
    return refusal[0] if refusal else 200


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "localhost", "LOCALHOST:1", "[::1]:8700"])
def test_the_loopback_may_ask_without_a_token(host: str) -> None:
    assert status_of("GET", "/metrics", Host=host) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "", "[", "localhost.evil"]
)
def test_a_name_that_was_rebound_to_the_loopback_is_refused(host: str) -> None:
    assert status_of("GET", "/api/v1/status", Host=host) == 421
    assert status_of("POST", "/hooks/x", Host=host) == 200, "it may be behind a proxy"
    assert status_of("GET", "/livez", Host=host) == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("Bearer s3cre", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("", 401),
    ],
)
def test_with_a_token_everything_but_the_probes_needs_it(authorization: str, status: int) -> None:
    for path in ("/", "/metrics", "/api/v1/status", "/api/v1/events", "/nothing"):
        assert status_of("GET", path, token="s3cret", Host="elsewhere", Authorization=authorization) == status
    assert status_of("GET", "/livez", token="s3cret", Host="elsewhere") == 200
    assert status_of("GET", "/readyz", token="s3cret", Host="elsewhere") == 200
    assert status_of("POST", "/hooks/x", token="s3cret", Host="elsewhere") == 200, "it proves itself"


def test_a_token_of_strange_bytes_is_only_wrong() -> None:
    assert status_of("GET", "/", token="é", Host="x", Authorization="Bearer \udcff") == 401


@pytest.mark.parametrize(
    ("origin", "status"), [("", 200), ("http://127.0.0.1:8700", 200), ("https://evil.example", 403), ("null", 403)]
)
def test_what_changes_something_must_not_come_from_another_site(origin: str, status: int) -> None:
    assert status_of("POST", "/api/v1/reload", Host="127.0.0.1:8700", Origin=origin) == status


def test_it_is_stuck_only_with_a_backlog_that_does_not_move() -> None:
    now = [0.0]
    liveness = Liveness(window_s=10, monotonic=lambda: now[0])
    for second, behind, settled, stuck in (
        (5, True, 0, False),
        (11, True, 0, True),
        (12, True, 1, False),
        (21, True, 1, False),
        (23, True, 1, True),
        (24, False, 1, False),
        (60, False, 1, False),
        (61, True, 1, False),
        (69, True, 1, False),
        (71, True, 1, True),
    ):
        now[0] = second
        liveness.look(is_behind=behind, settled=settled)
        assert bool(liveness.problem) is stuck, second


def test_metrics_have_the_form_of_prometheus() -> None:
    destination = {
        "name": 'a"b\\c\nd',
        "state": "down",
        "sent": {"runs": 1, "points": 12_345_678, "artifacts": 0, "bytes": 5},
        "waiting": [
            {"points": 1, "artifacts": 0, "changes": 2, "bytes": 3},
            {"points": 4, "artifacts": 0, "changes": 0, "bytes": 0},
        ],
        "oldest_unsynced_s": 1.5,
        "dead_letters": 0,
        "overflow": 0,
    }
    sink = {"name": "hook", "state": "up", "sent": 3, "waiting": 0, "dropped": 2, "dead_letters": 1}
    journal = {"used_bytes": 10, "max_bytes": 2 * 1024**3, "free_disk_bytes": 7}
    source = {"source": "bus", "taken": 5, "repeated": 4, "ignored": 3, "refused": 2, "dead_letters": 1}
    told = {"destinations": [destination], "sinks": [sink], "messages": [source]}
    status = {"journal": journal, "problems": [], **told}
    http = HttpCounts(answers=Counter({413: 2, 200: 9}), connections=3, cut_off=1)
    lines = metrics_text(status, version="1", hooks={"in": HookCounts(unauthorized=6)}, http=http).splitlines()
    assert 'syncd_points_sent_total{destination="a\\"b\\\\c\\nd"} 12345678' in lines
    assert 'syncd_points_waiting{destination="a\\"b\\\\c\\nd"} 5' in lines
    assert 'syncd_destination_up{destination="a\\"b\\\\c\\nd"} 0' in lines
    assert 'syncd_oldest_unsynced_seconds{destination="a\\"b\\\\c\\nd"} 1.5' in lines
    assert 'syncd_events_dropped_total{sink="hook"} 2' in lines
    assert 'syncd_messages_total{source="bus",outcome="refused"} 2' in lines
    assert 'syncd_message_dead_letters{source="bus"} 1' in lines
    assert 'syncd_hook_requests_total{source="in",outcome="unauthorized"} 6' in lines
    assert "syncd_journal_max_bytes 2147483648" in lines
    assert 'syncd_http_answers_total{status="413"} 2' in lines
    assert "syncd_http_connections 3" in lines
    assert "syncd_http_connections_cut_off_total 1" in lines
    assert all(line.startswith(("# HELP syncd_", "# TYPE syncd_", "syncd_")) for line in lines)
