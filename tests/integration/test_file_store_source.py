"""The FileStore reader on real trees: what ten MLflow releases wrote, and what happens to trees while they are read."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncd.configuration.model import MlflowDbSettings, MlrunsSettings
from syncd.core.facts import (
    ArtifactSeen,
    ExperimentSeen,
    InputsLogged,
    MetricsLogged,
    ModelSeen,
    OutputsLogged,
    ParamsLogged,
    ProblemFound,
    RunSeen,
    SubjectDeleted,
    TagsDeleted,
    TagsSet,
)
from syncd.errors import SourceError
from syncd.runtime.assembly import unnamed_databases
from syncd.sources.file_store import FileStoreSource
from syncd.sources.memory_cursors import MemoryCursors
from tests.awkward import build_awkward_store

STORES = Path(__file__).parents[1] / "fixtures" / "stores"
VERSIONS = sorted(path.name[: -len(".json")] for path in STORES.glob("mlflow-*.json"))
RUN = "0123456789abcdef0123456789abcdef"


@dataclass
class Mirror:
    """Applies readings, as a destination would."""

    source: FileStoreSource
    cursors: MemoryCursors = field(default_factory=MemoryCursors)
    experiments: dict[tuple[str, str], ExperimentSeen] = field(default_factory=dict)
    runs: dict[str, RunSeen] = field(default_factory=dict)
    models: dict[str, ModelSeen] = field(default_factory=dict)
    params: dict[str, dict[str, str]] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    points: dict[str, Counter] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], ArtifactSeen] = field(default_factory=dict)
    inputs: dict[str, list] = field(default_factory=dict)
    outputs: dict[str, list] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    last: list = field(default_factory=list)

    def poll(self, *, full: bool = True, changed=None, stop_after: int | None = None) -> list:
        self.last = []
        for number, reading in enumerate(self.source.poll(self.cursors, full=full, changed=changed)):
            if number == stop_after:
                break
            self.cursors.commit(reading)
            for fact in reading.facts:
                self.last.append(fact)
                self.apply(fact)
        return self.last

    def apply(self, fact) -> None:
        key = fact.subject.id if getattr(fact, "subject", None) else ""
        match fact:
            case ExperimentSeen():
                self.experiments[fact.subject.store, key] = fact
            case RunSeen():
                self.runs[key] = fact
            case ModelSeen():
                self.models[key] = fact
            case ParamsLogged():
                self.params.setdefault(key, {}).update(fact.params)
            case TagsSet():
                self.tags.setdefault(key, {}).update(fact.tags)
            case TagsDeleted():
                for name in fact.keys:
                    del self.tags[key][name]
            case MetricsLogged():
                lines = fact.lines.split(b"\n")
                assert len(lines) == fact.count <= 1000
                self.points.setdefault(key, Counter()).update(lines)
            case ArtifactSeen():
                self.artifacts[key, fact.path] = fact
            case InputsLogged():
                self.inputs.setdefault(key, []).extend([*fact.datasets, *fact.model_inputs])
            case OutputsLogged():
                self.outputs.setdefault(key, []).extend(fact.models)
            case SubjectDeleted():
                self.runs.pop(key, None)
                self.models.pop(key, None)
            case ProblemFound():
                self.problems.pop(fact.where, None)
                if fact.what:
                    self.problems[fact.where] = fact.what


def mirror(path: Path, **options) -> Mirror:
    return Mirror(FileStoreSource("test", path, **options))


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def make_run(root: Path, run_id: str = RUN, *, experiment: str = "0", status: int = 1, stage: str = "active") -> Path:
    write(
        root / experiment / "meta.yaml", f"artifact_location: x\nexperiment_id: '{experiment}'\nname: e{experiment}\n"
    )
    write(
        root / experiment / run_id / "meta.yaml",
        f"artifact_uri: /elsewhere/mlruns/{experiment}/{run_id}/artifacts\nend_time: null\nlifecycle_stage: {stage}\n"
        f"run_id: {run_id}\nrun_name: first\nstart_time: 1700000000000\nstatus: {status}\nuser_id: me\n",
    )
    return root / experiment / run_id


def age(root: Path, seconds: float = 3600) -> None:
    """Make a tree look as if it had been at rest."""
    then = time.time() - seconds
    for directory, _, files in os.walk(root):
        for name in [*files, "."]:
            os.utime(Path(directory, name), (then, then), follow_symlinks=False)


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(root.rglob("*"))}


@pytest.mark.parametrize("version", VERSIONS)
def test_reads_what_each_release_wrote_as_that_release_reads_it(version, tmp_path):
    with tarfile.open(STORES / f"{version}-file.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    truth = json.loads((STORES / f"{version}.json").read_text())["file"]
    before = snapshot(tmp_path)
    seen = mirror(tmp_path)
    seen.poll()
    assert snapshot(tmp_path) == before, "the store was written to"
    experiments = [e for e in truth["experiments"] if e["lifecycle_stage"] == "active"]
    assert {e["name"] for e in experiments} == {e.name for e in seen.experiments.values()}
    runs = {r["run_id"]: r for e in experiments for r in e["runs"] if r["lifecycle_stage"] == "active"}
    assert set(seen.runs) == set(runs)
    assert len(runs) > 2
    for run_id, run in runs.items():
        head = seen.runs[run_id]
        assert (head.status, head.start_time_ms, head.end_time_ms) == (
            run["status"],
            run["start_time"],
            run["end_time"],
        )
        assert seen.params.get(run_id, {}) == run["params"]
        assert seen.tags.get(run_id, {}) == run["tags"]
        ours = {path: fact.size_bytes for (subject, path), fact in seen.artifacts.items() if subject == run_id}
        assert set(ours) == set(run["artifacts"])
    models = {m["model_id"]: m for e in experiments for m in e.get("logged_models") or []}
    assert set(seen.models) == set(models)
    for model_id, model in models.items():
        head = seen.models[model_id]
        assert (head.name, head.source_run_id) == (model["name"], model["source_run_id"])
        assert (head.params, head.tags) == (model["params"], model["tags"])
        assert all(json.loads(line)["model_id"] == model_id for line in seen.points.get(model_id, ()))
        assert {path for subject, path in seen.artifacts if subject == model_id} == set(model["artifacts"])
    assert seen.poll() == []


def test_reads_the_awkward_store(tmp_path):
    build_awkward_store(tmp_path, "mlruns", big_artifact_bytes=100_000)
    seen = mirror(tmp_path)
    seen.poll()
    for subject_id, points in seen.points.items():
        files = [p for p in tmp_path.rglob("metrics/**/*") if p.is_file() and subject_id in p.parts]
        assert sum(points.values()) == sum(p.read_bytes().count(b"\n") for p in files) > 0
    assert not [where for where, what in seen.problems.items() if "metrics" in where]
    assert any(seen.inputs.values())
    assert any(fact.parent_run_id for fact in seen.runs.values())
    assert (seen.last and seen.poll() == []) or not seen.last


def test_points_appended_while_watching_come_once_and_torn_lines_wait(tmp_path):
    run = make_run(tmp_path)
    loss = write(run / "metrics" / "train" / "loss", "1 0.5 0\n2 0.25 1")
    seen = mirror(tmp_path)
    seen.poll()
    assert sum(seen.points[RUN].values()) == 1
    assert b'"key":"train/loss"' in next(iter(seen.points[RUN]))
    with loss.open("ab") as file:
        file.write(b"2\n3 0.125 2\n")
    seen.poll(full=False)
    assert [json.loads(line)["step"] for line in seen.points[RUN]] == [0, 12, 2]
    assert set(seen.points[RUN].values()) == {1}
    assert seen.poll(full=False) == []


def test_a_torn_last_line_of_an_ended_run_is_taken_when_it_is_still(tmp_path):
    run = make_run(tmp_path, status=3)
    write(run / "metrics" / "loss", "1 0.5 0\n2 0.25 1")
    age(tmp_path)
    seen = mirror(tmp_path)
    seen.poll()
    assert sum(seen.points[RUN].values()) == 2
    assert seen.poll() == []


def test_a_torn_last_line_of_a_run_that_never_ended_is_named(tmp_path):
    run = make_run(tmp_path)
    loss = write(run / "metrics" / "loss", "1 0.5 0\n2 0.25 1")
    age(tmp_path, 7200)
    seen = mirror(tmp_path)
    seen.poll()
    seen.poll()
    assert sum(seen.points[RUN].values()) == 1
    assert "no newline" in seen.problems[str(loss)]


@pytest.mark.parametrize("how", ["truncated", "replaced", "longer", "same size"])
def test_a_rewritten_metric_file_is_read_again(tmp_path, how):
    run = make_run(tmp_path)
    loss = write(run / "metrics" / "loss", "".join(f"1 0.5 {i}\n" for i in range(10, 60)))
    seen = mirror(tmp_path)
    seen.poll()
    new = {
        "truncated": "9 0.75 1\n",
        "replaced": "".join(f"1 0.5 {i}\n" for i in range(20, 70)),
        "longer": "".join(f"1 0.7 {i}\n" for i in range(10, 80)),
        "same size": "".join(f"1 {0.9 if 20 < i < 30 else 0.5} {i}\n" for i in range(10, 60)),
    }[how]
    if how == "replaced":
        write(run / "other", new).replace(loss)
    else:
        loss.write_text(new)
    facts = [fact for fact in seen.poll(full=False) if isinstance(fact, MetricsLogged)]
    assert facts
    assert all(fact.again for fact in facts)
    assert sum(fact.count for fact in facts) == new.count("\n")


def test_a_copied_store_is_not_stated_again(tmp_path):
    run = make_run(tmp_path / "a", status=3)
    write(run / "metrics" / "loss", "1 0.5 0\n")
    write(run / "params" / "lr", "0.1")
    age(tmp_path)
    seen = mirror(tmp_path / "a")
    seen.poll()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b").rename(tmp_path / "a")
    assert not [fact for fact in seen.poll() if not isinstance(fact, ExperimentSeen)]


def test_bad_lines_are_named_once_and_the_others_flow(tmp_path):
    run = make_run(tmp_path)
    write(run / "metrics" / "loss", "1 0.5 0\nrubbish\n2 0.25 1\n" + "x\n" * 100)
    seen = mirror(tmp_path)
    seen.poll()
    assert sum(seen.points[RUN].values()) == 2
    assert "81 more lines" in seen.problems[str(run / "metrics" / "loss")]
    assert seen.problems[f"{run}/metrics/loss:2"]
    assert len(seen.problems) == 21
    seen.poll()
    assert len(seen.problems) == 21


def test_tags_change_vanish_and_are_rewritten_within_the_clock(tmp_path):
    run = make_run(tmp_path)
    tag = write(run / "tags" / "a" / "b", "one")
    write(run / "tags" / "mlflow.parentRunId", "p" * 32)
    seen = mirror(tmp_path)
    seen.poll()
    assert seen.tags[RUN] == {"a/b": "one", "mlflow.parentRunId": "p" * 32}
    assert seen.runs[RUN].parent_run_id == "p" * 32
    info = tag.stat()
    tag.write_text("two")
    os.utime(tag, ns=(info.st_atime_ns, info.st_mtime_ns))  # as if within one tick of the clock
    seen.poll(full=False)
    assert seen.tags[RUN]["a/b"] == "two"
    tag.unlink()
    seen.poll(full=False)
    assert "a/b" not in seen.tags[RUN]


def test_an_empty_meta_is_held_then_named_then_cured(tmp_path):
    run = make_run(tmp_path)
    text = (run / "meta.yaml").read_text()
    write(run / "meta.yaml", "")
    write(run / "params" / "lr", "1")
    clock = [time.time_ns()]
    seen = mirror(tmp_path, now_ns=lambda: clock[0])
    seen.poll()
    assert not seen.runs
    assert not seen.problems
    clock[0] += 5_000_000_000
    seen.poll()
    assert "empty" in seen.problems[str(run / "meta.yaml")]
    write(run / "meta.yaml", text)
    seen.poll()
    assert seen.runs[RUN].name == "first"
    assert not seen.problems


@pytest.mark.parametrize(("begun", "whole"), [("", "0.1"), ("x" * 5000, "x" * 6000)])
def test_a_param_that_is_half_written_is_held_by_a_quick_poll(tmp_path, begun, whole):
    run = make_run(tmp_path)
    write(run / "params" / "depth", "3")
    clock = [time.time_ns()]
    seen = mirror(tmp_path, now_ns=lambda: clock[0])
    seen.poll()
    write(run / "params" / "lr", begun)
    clock[0] = time.time_ns()
    seen.poll(full=False)
    assert seen.params[RUN] == {"depth": "3"}
    write(run / "params" / "lr", whole)
    clock[0] = time.time_ns() + 1_000_000_000
    seen.poll(full=False)
    assert seen.params[RUN] == {"depth": "3", "lr": whole}


@pytest.mark.parametrize(("begun", "whole"), [("", "0.1"), ("x" * 5000, "x" * 6000)])
def test_a_full_poll_waits_for_the_writer_of_a_param(tmp_path, monkeypatch, begun, whole):
    run = make_run(tmp_path)
    lr = write(run / "params" / "lr", begun)
    monkeypatch.setattr("syncd.sources.file_store.small_files.time.sleep", lambda _: lr.write_text(whole))
    seen = mirror(tmp_path)
    seen.poll()
    assert seen.params[RUN] == {"lr": whole}
    seen.poll()
    assert seen.last == []


def test_a_long_param_is_stated_although_the_clock_of_its_machine_is_ahead(tmp_path):
    run = make_run(tmp_path)
    clock = [time.time_ns()]
    seen = mirror(tmp_path, now_ns=lambda: clock[0])
    seen.poll()
    write(run / "params" / "lr", "x" * 5000)
    clock[0] = time.time_ns() - 60_000_000_000
    seen.poll(full=False)
    assert seen.params[RUN] == {"lr": "x" * 5000}


def test_a_full_poll_waits_for_all_that_was_just_copied_together(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    for number in range(200):
        write(run / "params" / f"p{number}", "")
    clock, pauses = [time.time_ns()], []

    def pause(seconds):
        pauses.append(seconds)
        clock[0] += round(seconds * 1e9)

    monkeypatch.setattr("syncd.sources.file_store.small_files.time.sleep", pause)
    monkeypatch.setattr("syncd.sources.file_store.small_files.time.time_ns", lambda: clock[0])
    seen = mirror(tmp_path)
    seen.poll()
    assert len(seen.params[RUN]) == 200
    assert 0 < sum(pauses) < 2.2


def test_a_param_without_a_value_is_stated(tmp_path):
    run = make_run(tmp_path)
    write(run / "params" / "note", "")
    seen = mirror(tmp_path)
    seen.poll()
    assert seen.params[RUN] == {"note": ""}


def test_a_held_run_comes_with_a_quick_poll(tmp_path):
    run = make_run(tmp_path)
    text = (run / "meta.yaml").read_text()
    write(run / "meta.yaml", "")
    seen = mirror(tmp_path)
    seen.poll()
    seen.poll(full=False)
    assert not seen.runs
    write(run / "meta.yaml", text)
    seen.poll(full=False)
    assert set(seen.runs) == {RUN}


def test_a_run_whose_folder_is_seen_before_anything_is_in_it_comes_with_a_quick_poll(tmp_path):
    run = make_run(tmp_path)
    text = (run / "meta.yaml").read_text()
    seen = mirror(tmp_path)
    seen.poll()
    made = run.parent / ("f" * 32)
    made.mkdir()
    seen.poll(full=False, changed={str(made)})
    assert set(seen.runs) == {RUN}
    write(made / "meta.yaml", text.replace(RUN, made.name))
    seen.poll(full=False, changed={str(made)})
    assert set(seen.runs) == {RUN, made.name}


def test_runs_and_experiments_without_meta_are_named(tmp_path):
    make_run(tmp_path)
    lost = make_run(tmp_path, "f" * 32)
    write(lost / "metrics" / "loss", "1 1 1\n")
    (lost / "meta.yaml").unlink()
    make_run(tmp_path, "e" * 32, experiment="7")
    (tmp_path / "7" / "meta.yaml").unlink()
    age(tmp_path)
    seen = mirror(tmp_path)
    seen.poll()
    assert set(seen.runs) == {RUN, "e" * 32}
    assert seen.experiments["", "7"].name == "7"
    assert set(seen.problems) == {str(lost / "meta.yaml"), str(tmp_path / "7" / "meta.yaml")}


def test_new_experiments_and_runs_come_with_a_quick_poll(tmp_path):
    make_run(tmp_path)
    seen = mirror(tmp_path)
    seen.poll()
    make_run(tmp_path, "a" * 32)
    make_run(tmp_path, "b" * 32, experiment="5")
    seen.poll(full=False)
    assert set(seen.runs) == {RUN, "a" * 32, "b" * 32}


def test_deleted_runs_are_stated_once_and_restored_ones_again(tmp_path):
    run = make_run(tmp_path, status=3)
    write(run / "metrics" / "loss", "1 0.5 0\n")
    make_run(tmp_path, "d" * 32, stage="deleted")
    seen = mirror(tmp_path)
    seen.poll()
    assert set(seen.runs) == {RUN}
    text = (run / "meta.yaml").read_text()
    write(run / "meta.yaml", text.replace("active", "deleted"))
    assert [type(f) for f in seen.poll(full=False)] == [SubjectDeleted]
    assert [f for f in seen.poll() if isinstance(f, SubjectDeleted)] == []
    write(run / "meta.yaml", text)
    restored = seen.poll()
    assert [f.again for f in restored if isinstance(f, MetricsLogged)] == [True]
    assert set(seen.runs) == {RUN}


@pytest.mark.parametrize("how", ["folder gone", "experiment trashed", "quick", "experiment gone"])
def test_what_vanished_is_deleted_unless_its_experiment_vanished_too(tmp_path, how):
    run = make_run(tmp_path, status=3)
    make_run(tmp_path, "a" * 32, experiment="1")
    seen = mirror(tmp_path)
    seen.poll()
    if how.startswith("experiment"):
        target = tmp_path / ".trash" / "0" if how == "experiment trashed" else tmp_path.parent / f"{tmp_path.name}-away"
        target.parent.mkdir(exist_ok=True)
        run.parent.rename(target)
    else:
        shutil.rmtree(run)
    seen.poll(full=how != "quick")
    assert (RUN in seen.runs) == (how == "experiment gone")
    assert not [f for f in seen.poll() if isinstance(f, SubjectDeleted)]
    assert "a" * 32 in seen.runs


def test_many_roots_and_a_run_in_two_of_them(tmp_path):
    make_run(tmp_path / "outputs" / "1" / "mlruns", "1" * 32)
    make_run(tmp_path / "outputs" / "2" / "mlruns", "2" * 32)
    make_run(tmp_path / "outputs" / "2" / "mlruns" / "mlruns", "3" * 32)
    second = make_run(tmp_path / "zz", "1" * 32)
    seen = mirror(tmp_path)
    seen.poll()
    assert {run.experiment.store for run in seen.runs.values()} == {
        "outputs/1/mlruns", "outputs/2/mlruns", "outputs/2/mlruns/mlruns",
    }  # fmt: skip
    assert len(seen.experiments) == 4
    assert "outputs/1/mlruns" in seen.problems[str(second)]
    assert not seen.poll()
    shutil.rmtree(second)
    seen.poll()
    assert not seen.problems


def test_artifacts_links_and_what_is_no_file(tmp_path):
    run = make_run(tmp_path)
    artifacts = run / "artifacts"
    secret = write(tmp_path / "secret", "x")
    write(artifacts / "model" / "weights.bin", b"12345")
    write(artifacts / ".hidden", b"")
    (artifacts / "inside").symlink_to(artifacts / "model" / "weights.bin")
    (artifacts / "outside").symlink_to(secret)
    (artifacts / "tree").symlink_to(tmp_path)
    os.mkfifo(artifacts / "fifo")
    os.mkfifo(run / "params")
    listener = socket.socket(socket.AF_UNIX)
    old = Path.cwd()
    os.chdir(artifacts)
    listener.bind("socket")
    os.chdir(old)
    seen = mirror(tmp_path)
    seen.poll()
    listener.close()
    assert {path: fact.size_bytes for (_, path), fact in seen.artifacts.items()} == {
        "model/weights.bin": 5, ".hidden": 0, "inside": 5,
    }  # fmt: skip
    names = {Path(where).name for where in seen.problems}
    assert names == {"outside", "tree", "fifo", "socket", "params"}


def test_changed_and_new_artifacts_and_a_removed_folder(tmp_path):
    run = make_run(tmp_path)
    weights = write(run / "artifacts" / "model" / "weights.bin", b"1")
    clock = [time.time_ns()]
    seen = mirror(tmp_path, now_ns=lambda: clock[0])
    seen.poll()
    write(run / "artifacts" / "model" / "deep" / "new.txt", b"2")
    clock[0] = time.time_ns()
    seen.poll(full=False)
    assert (RUN, "model/deep/new.txt") not in seen.artifacts, "a file that is being written waits"
    clock[0] += 10_000_000_000
    seen.poll(full=False)
    assert (RUN, "model/deep/new.txt") in seen.artifacts
    seen.poll(full=False)
    weights.write_bytes(b"333")
    seen.poll()
    assert seen.artifacts[RUN, "model/weights.bin"].size_bytes == 3
    shutil.rmtree(run / "artifacts" / "model")
    seen.poll()
    assert not list(seen.cursors.keys(f"{RUN}/artifacts/model"))


def test_a_large_directory_costs_what_changes(tmp_path):
    run = make_run(tmp_path)
    for number in range(6000):
        write(run / "artifacts" / f"{number}.txt", b"x")
    seen = mirror(tmp_path)
    seen.poll()
    assert len(seen.artifacts) == 6000
    (run / "artifacts" / "7.txt").unlink()
    write(run / "artifacts" / "new.txt", b"y")
    reading = next(iter(seen.source.poll(seen.cursors, full=True)))
    assert sum(len(cursor) for cursor in reading.cursors.values() if cursor) < 20_000
    seen.poll()
    assert (RUN, "new.txt") in seen.artifacts
    assert seen.poll() == []


def test_an_abandoned_poll_loses_nothing(tmp_path):
    for number in range(40):
        run = make_run(tmp_path, f"{number:032x}")
        write(run / "metrics" / "loss", "".join(f"1 0.5 {i}\n" for i in range(3000)))
    seen = mirror(tmp_path)
    for stop in range(1, 5):
        seen.poll(stop_after=stop - 1)
    seen.poll()
    assert len(seen.runs) == 40
    assert all(sum(points.values()) == 3000 and len(points) == 3000 for points in seen.points.values())
    assert len(seen.points) == 40


def test_a_large_file_comes_in_readings_of_bounded_size(tmp_path):
    run = make_run(tmp_path)
    write(run / "metrics" / "loss", "".join(f"17000000000{i:06} 0.5 {i}\n" for i in range(200_000)))
    seen = mirror(tmp_path)
    sizes = []
    for number, reading in enumerate(seen.source.poll(seen.cursors, full=True)):
        sizes.append(sum(len(f.lines) for f in reading.facts if isinstance(f, MetricsLogged)))
        seen.cursors.commit(reading)
        for fact in reading.facts:
            seen.apply(fact)
        if number == 1:
            break
    assert len(sizes) == 2
    seen.poll()
    assert max(sizes) <= 4 * 1024 * 1024
    assert len(seen.points[RUN]) == sum(seen.points[RUN].values()) == 200_000


def test_runs_at_rest_are_not_kept_active_but_found_through_a_hint(tmp_path):
    run = make_run(tmp_path)
    loss = write(run / "metrics" / "loss", "1 0.5 0\n")
    age(tmp_path, 7200)
    seen = mirror(tmp_path)
    seen.poll()
    assert run not in seen.source.watch_paths()
    with loss.open("a") as file:
        file.write("2 0.5 1\n")
    assert seen.poll(full=False) == []
    seen.poll(full=False, changed=[str(loss)])
    assert sum(seen.points[RUN].values()) == 2
    assert {run, run / "metrics"} <= set(seen.source.watch_paths())


def test_what_is_no_store_says_what_was_expected(tmp_path):
    with pytest.raises(SourceError, match="no such directory"):
        mirror(tmp_path / "absent").poll()
    write(tmp_path / "file", "x")
    with pytest.raises(SourceError, match="no directory"):
        mirror(tmp_path / "file").poll()
    with pytest.raises(SourceError, match="mlruns/0/meta"):
        mirror(tmp_path).poll()
    run = make_run(tmp_path / "mlruns")
    with pytest.raises(SourceError, match="single experiment or run"):
        mirror(run).poll()
    (tmp_path / "empty").mkdir()
    assert mirror(tmp_path / "empty").poll() == []


@pytest.mark.parametrize("database", [True, False])
def test_the_artifact_directory_of_a_database_is_no_store(tmp_path, database):
    make_run(tmp_path / "mlruns")
    write(tmp_path / "mlruns" / "3" / ("c" * 32) / "artifacts" / "model.pkl", b"x")
    if database:
        write(tmp_path / "mlflow.db", b"")
    seen = mirror(tmp_path)
    seen.poll()
    assert set(seen.runs) == {RUN}
    assert bool(seen.problems) is not database


# -- databases beside


def tracking_database(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    database.close()
    return path


def test_a_directory_without_a_file_store_names_the_databases_in_it(tmp_path):
    (tmp_path / "mlruns" / "1" / RUN / "artifacts").mkdir(parents=True)
    with pytest.raises(SourceError) as raised:
        list(FileStoreSource("s", tmp_path).poll(MemoryCursors(), full=True))
    assert "mlruns/1 holds artifacts of runs" in str(raised.value)
    path = tracking_database(tmp_path / "data" / "mlflow.db")
    (tmp_path / "data" / "notes.db").write_bytes(b"SQLite format 3\0 of something else")
    with pytest.raises(SourceError) as raised:
        list(FileStoreSource("s", tmp_path).poll(MemoryCursors(), full=True))
    assert f"name that file itself: {path} (" in str(raised.value)


def test_databases_that_lie_beside_a_file_store_are_told(tmp_path):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("artifact_location: x\nname: Default\n")
    path = tracking_database(tmp_path / "mlflow.db")
    directory = MlrunsSettings(name="d", paths=(tmp_path,))
    assert unnamed_databases([directory]) == [str(path)]
    database = MlflowDbSettings(name="b", uri=f"sqlite:///{path}", path=path)
    assert unnamed_databases([directory, database]) == []
