"""Artifact URIs of other machines."""

from pathlib import Path

import pytest

from syncd.sources.artifact_location import describe_location, remote_scheme, resolve_artifact_root

RUN = "0123456789abcdef0123456789abcdef"
STORE = Path("/srv/copy/mlruns")


def resolve(uri, *present, beside=None, store=STORE, subject_id=RUN):
    there = {Path(path) for path in present}
    found = resolve_artifact_root(uri, beside=beside, store_dir=store, exists=there.__contains__, subject_id=subject_id)
    return str(found) if found else None


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        (f"/home/a/mlruns/1/{RUN}/artifacts", f"/home/a/mlruns/1/{RUN}/artifacts"),
        (f"file:///home/a/mlruns/1/{RUN}/artifacts", f"/home/a/mlruns/1/{RUN}/artifacts"),
        (f"file:/home/a/mlruns/1/{RUN}/artifacts", f"/home/a/mlruns/1/{RUN}/artifacts"),
        (f"file://localhost/home/a/{RUN}/artifacts", f"/home/a/{RUN}/artifacts"),
        (f"file:///home/a%20b/{RUN}/artifacts", f"/home/a b/{RUN}/artifacts"),
        (f"file:///home/a b/{RUN}/artifacts", f"/home/a b/{RUN}/artifacts"),
        (f"file:///home/100%25/{RUN}/artifacts", f"/home/100%/{RUN}/artifacts"),
        (f"/home/raw%20name/{RUN}/artifacts", f"/home/raw%20name/{RUN}/artifacts"),
        (f"./mlruns/1/{RUN}/artifacts", f"/srv/copy/mlruns/1/{RUN}/artifacts"),
        (f"mlruns/1/{RUN}/artifacts", f"/srv/copy/mlruns/1/{RUN}/artifacts"),
        (f"../mlruns/1/{RUN}/artifacts", f"/srv/copy/mlruns/1/{RUN}/artifacts"),
        (f"file:./mlruns/1/{RUN}/artifacts", f"/srv/copy/mlruns/1/{RUN}/artifacts"),
    ],
)
def test_the_uri_itself_comes_first(uri, path):
    assert resolve(uri, path, "/beside", beside=Path("/beside")) == path


def test_beside_comes_before_the_tail():
    tail = str(STORE / "1" / RUN / "artifacts")
    assert resolve(f"/gone/1/{RUN}/artifacts", "/beside", tail, beside=Path("/beside")) == "/beside"
    assert resolve(f"/gone/1/{RUN}/artifacts", tail, beside=Path("/beside")) == tail


@pytest.mark.parametrize(
    "uri",
    [
        f"file:///C:/Users/a/mlruns/1/{RUN}/artifacts",
        f"file:///C:/Users/a%20b/mlruns/1/{RUN}/artifacts",
        f"file:///C:/Users/a b/mlruns/1/{RUN}/artifacts",
        f"file:C:\\Users\\a\\mlruns\\1\\{RUN}\\artifacts",
        f"C:\\Users\\a\\mlruns\\1\\{RUN}\\artifacts",
        f"c:/Users/a/mlruns/1/{RUN}/artifacts",
        f"file://C:/Users/a/mlruns/1/{RUN}/artifacts",
        f"file://host/share/mlruns/1/{RUN}/artifacts",
        f"/Users/a/mlruns/1/{RUN}/artifacts",
        f"mlflow-artifacts:/1/{RUN}/artifacts",
        f"mlflow-artifacts://host:5000/1/{RUN}/artifacts",
    ],
)
def test_the_tail_is_found_below_the_store(uri):
    assert resolve(uri, STORE / "1" / RUN / "artifacts") == str(STORE / "1" / RUN / "artifacts")
    beside_database = Path("/srv/copy/mlruns/1") / RUN / "artifacts"
    assert resolve(uri, beside_database, store=Path("/srv/copy")) == str(beside_database)
    assert resolve(uri) is None


def test_a_model_of_a_proxied_store_may_lie_in_mlartifacts():
    path = Path("/srv/mlartifacts/1/models/m-1/artifacts")
    for store in ("/srv", "/srv/mlruns"):
        found = resolve("mlflow-artifacts:/1/models/m-1/artifacts", path, store=Path(store), subject_id="m-1")
        assert found == str(path)


@pytest.mark.parametrize("store", ["/srv/copy/data", "/srv/copy/.mlflow/db", "/srv/copy/mlruns"])
def test_a_database_may_lie_in_a_directory_of_its_own(store):
    path = Path("/srv/copy/notebooks/mlruns/1") / RUN / "artifacts"
    uri = f"/home/a/copy/notebooks/mlruns/1/{RUN}/artifacts"
    assert resolve(uri, path, store=Path(store)) == str(path)
    assert resolve(uri, path, store=Path(store) / "one" / "more") is None


def test_above_the_store_only_what_names_the_run_is_taken():
    assert resolve("/x/someone/private/keys", "/srv/someone/private/keys") is None


def test_a_proxied_store_may_lie_in_mlartifacts():
    path = Path("/srv/mlartifacts/1") / RUN / "artifacts"
    assert resolve(f"mlflow-artifacts:/1/{RUN}/artifacts", path, store=Path("/srv")) == str(path)


@pytest.mark.parametrize("uri", ["/etc", "file:///home/someone", "/", "../../..", "file:///home/someone/artifacts"])
def test_a_directory_that_does_not_name_the_run_is_not_taken_at_its_word(uri):
    present = ["/etc", "/home/someone", "/", "/srv", "/home/someone/artifacts", "/srv/copy", "/beside"]
    assert resolve(uri, *present, beside=Path("/beside")) == "/beside"


@pytest.mark.parametrize("uri", [f"/x/../../../etc/{RUN}/artifacts", "a/../../b/../../../../etc/passwd"])
def test_tails_do_not_climb(uri):
    seen = []
    resolve_artifact_root(
        uri, beside=None, store_dir=STORE, exists=lambda path: bool(seen.append(path)), subject_id="no such id"
    )
    assert seen
    assert not [path for path in seen if ".." in path.parts]


@pytest.mark.parametrize(
    ("uri", "scheme"),
    [
        ("s3://bucket/1", "s3"), ("gs://b", "gs"), ("wasbs://c@a/x", "wasbs"), ("dbfs:/x", "dbfs"),
        ("azureml://h/x", "azureml"), ("https://h/x", "https"), ("mlflow-artifacts:/1", "mlflow-artifacts"),
        ("S3://bucket", "s3"), ("file:///x", ""), ("file:C:\\x", ""), ("c:/x", ""), ("C:\\x", ""), ("./x", ""),
        ("x/y", ""), ("", ""),
    ],
)  # fmt: skip
def test_remote_schemes(uri, scheme):
    assert remote_scheme(uri) == scheme
    assert (uri in describe_location(uri)) or not uri


def test_remote_storage_is_only_taken_from_beside():
    uri = f"s3://bucket/1/{RUN}/artifacts"
    assert resolve(uri, STORE / "1" / RUN / "artifacts") is None
    assert resolve(uri, "/beside", beside=Path("/beside")) == "/beside"


@pytest.mark.parametrize("uri", ["/a\x00b/x/y/z", "/" + "n" * 5000])
def test_an_impossible_path_is_merely_not_there(uri):
    assert resolve_artifact_root(uri, beside=None, store_dir=STORE) is None


def test_what_is_told_of_a_uri_holds_no_credentials():
    told = describe_location("mysql://user:secret@host:3306/db/1/artifacts?password=secret")
    assert "secret" not in told
    assert "mysql://user:***@host:3306/db/1/artifacts" in told
    assert "what?.txt" in describe_location("/home/a/what?.txt")
