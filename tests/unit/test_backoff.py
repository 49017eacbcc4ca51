"""How long is waited before a broker is connected to again."""

from __future__ import annotations

from syncd.errors import AuthFailed, Transient
from syncd.runtime.backoff import CALM_S, Backoff


def test_only_a_connection_that_has_held_ends_a_row_of_failures() -> None:
    now = [0.0]
    backoff = Backoff(lambda: now[0])
    wrong = AuthFailed("the key is wrong")
    first, second = backoff.next_s(wrong), backoff.next_s(wrong)
    assert 0 < first < second
    backoff.note_connected()
    now[0] += CALM_S - 1
    third = backoff.next_s(wrong)
    assert third > second
    now[0] += 10 * CALM_S  # not connected
    assert backoff.next_s(wrong) > third
    backoff.note_connected()
    now[0] += CALM_S
    assert backoff.next_s(wrong) == first


def test_a_broker_that_names_a_time_is_given_it() -> None:
    assert Backoff().next_s(Transient("busy", retry_after_s=100)) == 100
