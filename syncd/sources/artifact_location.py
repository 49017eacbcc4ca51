r"""Find the local directory that an artifact URI means, although it was written on another machine.

Rules
-----
1. Order: the URI itself; the directory beside the run's meta file; the URI's tail below the store's or database's
   directory or the two above it; else None, and the caller reports where the artifacts are said to be.
2. Nothing is opened here; whether a directory exists is asked through an argument.
3. A URI is data that a training process wrote. With ``subject_id`` given, a directory outside the store's own is
   taken at the URI's word only if that id is one of its components (MLflow always makes ``…/<run id>/artifacts``),
   so that an edited meta file cannot name, say, a home directory.
4. Tails never contain "..".

Forms seen in the wild (see FACTS, "Real stores"): ``file:///abs``, ``/abs``, ``file:///C:/…`` escaped or with raw
spaces, ``file:C:\…``, ``c:/…``, ``file://host/share``, ``./rel``, ``../mlruns``, ``rel``, ``mlflow-artifacts:/``,
``s3://`` and its kin.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):")  # two letters at least: "c:" is a drive
_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/@\s]*@")
_QUERY = re.compile(r"\?.+")  # a signature (SAS) of a storage account, among others
_DRIVE = re.compile(r"/?[A-Za-z]:(?:[\\/]|$)")
_PROXIED = "mlflow-artifacts"  # a tracking server's own directory, often ./mlartifacts on the same machine
_LONGEST_TAIL = 6
_SHORTEST_TAIL = 3  # <experiment>/<run>/artifacts


def remote_scheme(uri: str) -> str:
    """Return the scheme of a URI whose artifacts are not in a file system here, "" for a local one.

    ``mlflow-artifacts`` counts as remote: the bytes are a tracking server's, though they may be found beside.
    """
    match = _SCHEME.match(uri.strip())
    scheme = match.group(1).lower() if match else ""
    return "" if scheme == "file" else scheme


def describe_location(uri: str) -> str:
    """Say in plain words where a URI points to, for a ProblemFound; without the credentials that it may hold."""
    scheme = remote_scheme(uri)
    uri = _PASSWORD.sub(r"\1***@", uri)
    uri = _QUERY.sub("?...", uri) if scheme else uri
    if not uri.strip():
        return "the store does not say where its artifacts are"
    if scheme == _PROXIED:
        return f"the artifacts are kept by a tracking server ({uri})"
    if scheme:
        return f"the artifacts are in remote storage ({uri}), not in a directory of this machine"
    if any(_DRIVE.match(path) for path in _local_paths(uri)):
        return f"the artifacts were written on a Windows machine ({uri}) and are not found here"
    return f"the artifacts are said to be at {uri}, which is not found here"


def resolve_artifact_root(
    uri: str,
    *,
    beside: Path | None,
    store_dir: Path,
    exists: Callable[[Path], bool] = Path.is_dir,
    subject_id: str = "",
) -> Path | None:
    """Return the directory in which a run's or model's artifacts lie, or None.

    Args:
        uri: the artifact URI as stored.
        beside: ``<run>/artifacts`` next to the meta file of a FileStore; None for a database.
        store_dir: the FileStore's root, or the directory that holds the database file.
        exists: tells whether a path is a directory.
        subject_id: id of the run or model; see rule 3.
    """
    for candidate in _candidates(uri.strip(), beside=beside, store_dir=store_dir, subject_id=subject_id):
        if _exists(candidate, exists):
            return candidate
    return None


def _candidates(uri: str, *, beside: Path | None, store_dir: Path, subject_id: str) -> Iterator[Path]:
    scheme = remote_scheme(uri)
    paths = [] if scheme and scheme != _PROXIED else _local_paths(uri)
    if not scheme:
        for path in paths:
            for literal in _literal(path, store_dir):
                if not subject_id or subject_id in literal.parts or _is_below(literal, store_dir):
                    yield literal
    if beside is not None:
        yield beside
    for path in paths:
        yield from _tails(path, store_dir, subject_id)


def _local_paths(uri: str) -> list[str]:
    """Return the paths a URI may mean: unescaped first, then as written (a name may hold a raw "%")."""
    match = _SCHEME.match(uri)
    if not match:
        return [uri] if uri else []
    rest = uri[match.end() :]
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        if _DRIVE.match(host):  # file://C:/…, one slash short
            rest = rest[2:]
        elif match.group(1).lower() == _PROXIED or host in ("", "localhost", "."):
            rest = slash + path
    return list(dict.fromkeys([unquote(rest), rest])) if rest else []


def _literal(path: str, store_dir: Path) -> Iterator[Path]:
    if _DRIVE.match(path):
        if os.name == "nt":
            yield Path(path.lstrip("/"))
        return
    if "\\" in path and os.name != "nt":
        return
    if path.startswith("/"):
        yield Path(path)
        return
    # Relative to the working directory of the training process: that is where "mlruns" or the database was made.
    yield Path(os.path.normpath(store_dir / path))
    yield Path(os.path.normpath(store_dir.parent / path))


def _tails(path: str, store_dir: Path, subject_id: str) -> Iterator[Path]:
    parts = [part for part in PureWindowsPath(path).parts if part.strip("\\/") not in ("", ".")]
    if parts and _DRIVE.match(parts[0]):
        parts = parts[1:]
    while ".." in parts:
        parts = parts[parts.index("..") + 1 :]
    tails = [parts[-length:] for length in range(_SHORTEST_TAIL, min(_LONGEST_TAIL, len(parts)) + 1)]
    if not tails and len(parts) == 2:
        tails = [parts]
    for tail in tails:
        yield store_dir.joinpath(*tail)
    for tail in tails[:2]:  # the second: <experiment>/models/<model>/artifacts
        for base in (store_dir / "mlruns", store_dir / "mlartifacts", store_dir.parent / "mlartifacts"):
            yield base.joinpath(*tail)
    # A database often has a directory of its own: data/mlflow.db, .mlflow/db/mlflow.db beside mlruns/.
    for base in (store_dir.parent, store_dir.parent.parent):
        for tail in tails:
            if not subject_id or subject_id in tail:
                yield base.joinpath(*tail)


def _is_below(path: Path, directory: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(directory)) and path != directory


def _exists(path: Path, exists: Callable[[Path], bool]) -> bool:
    try:
        return exists(path)
    except (OSError, ValueError):  # a name too long, a NUL: no such directory
        return False
