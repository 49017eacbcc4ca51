"""``kill -9`` at every stage: what was begun is finished by the next run, once."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.faults import failpoints
from tests.faults.conftest import Case

KILLED = -signal.SIGKILL
# Reached more than once in a run: kill in the middle of them too.
LATER = [
    "journal.settle:before:4",
    "journal.settle:after:4",
    "journal.bind:after:3",
    "destination.create:after:3",
    "destination.upload:after:4",
    "artifact.pieces:after:3",
    "send LogBatch of points:after:2",
    "send UpdateRun:after:2",
    "rest.answer head:before:12",
    "rest.answer head:after:20",
]
# After these, what the journal would have known must be found out from the destination.
FORGOTTEN = [
    "destination.ensure_experiment:after",
    "destination.create:after",
    "journal.bind:after:3",
    "send LogBatch of values:after",
    "send LogBatch of points:after",
    "destination.upload:after:3",
    "overflow.freeze_document:after",
    "send LogOutputs:after",
    "send FinalizeModel:after",
    "send UpdateRun:after",
    "journal.close:after",
]
ON_APPENDING = [
    "journal.mark_attempted:before",
    "journal.mark_attempted:after",
    "send LogBatch of points:before",
    "send LogBatch of points:after",
    "send LogBatch of points:after:2",
    "journal.settle:before",
    "journal.settle:before:3",
    "journal.settle:after:2",
]


def check_complete(case: Case) -> None:
    ended = case.sync()
    assert ended.code == 0, ended
    case.check()
    again = case.sync()
    assert again.code == 0
    assert (again.json()["points"], again.json()["artifacts"]) == (0, 0)


@pytest.mark.parametrize("failpoint", [*failpoints.names(), *LATER])
def test_a_killed_sync_is_finished_by_the_next(case: Case, failpoint: str) -> None:
    assert case.killed_sync(failpoint) == KILLED
    check_complete(case)


@pytest.mark.parametrize("failpoint", FORGOTTEN)
def test_a_killed_sync_is_finished_without_its_journal(case: Case, failpoint: str) -> None:
    assert case.killed_sync(failpoint) == KILLED
    shutil.rmtree(case.state)
    check_complete(case)


@pytest.mark.parametrize("keep_state", [True, False], ids=["", "forgotten"])
@pytest.mark.parametrize("failpoint", ON_APPENDING)
def test_a_store_that_appends_gets_no_point_twice(file_case: Case, failpoint: str, keep_state: bool) -> None:
    assert file_case.killed_sync(failpoint) == KILLED
    if not keep_state:
        shutil.rmtree(file_case.state)
    check_complete(file_case)
