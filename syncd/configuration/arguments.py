"""Settings of the sources and the destination that are named on the command line of ``sync`` and ``verify``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from syncd.configuration.credentials import with_environment_credentials
from syncd.configuration.locating import KeyLines
from syncd.configuration.model import DestinationSettings, MlflowDbSettings, MlrunsSettings, SourceSettings
from syncd.configuration.reading import Document, Table
from syncd.configuration.tables import read_destination, sqlite_path
from syncd.core.sqlite_header import MAGIC, may_be_database
from syncd.errors import ConfigError, SourceError

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def source_of_argument(argument: str, *, name: str, experiments: Sequence[str] = ()) -> SourceSettings:
    """Return the source that a SOURCE argument names: a directory, a ``.db`` file or ``sqlite:///PATH``.

    Args:
        argument: as typed; relative to the working directory.
        name: the source's name (see ``names_of_arguments``).
        experiments: globs of experiment names to read; empty for all.

    Raises:
        ConfigError: there is nothing of that name, or it is no store.
        SourceError: the file holds something and is no SQLite database.
    """
    doing = "reading the source"
    path = Path(sqlite_path(argument) or argument).expanduser().absolute()
    if "://" in argument and not sqlite_path(argument):
        raise ConfigError("expected a directory, a .db file or sqlite:///PATH", doing=doing, target=argument)
    if path.is_dir() and not sqlite_path(argument):
        return MlrunsSettings(name=name, paths=(path,), experiments=tuple(experiments))
    if path.is_file():
        _refuse_what_is_no_database(path)
        return MlflowDbSettings(name=name, uri=f"sqlite:///{path}", path=path, experiments=tuple(experiments))
    raise ConfigError("there is no such directory or file", doing=doing, target=argument, hint=f"looked at {path}")


def names_of_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a source name for each SOURCE argument: its last path segment, made unique with -2, -3, ..."""
    names: list[str] = []
    for argument in arguments:
        last = Path(sqlite_path(argument) or argument).expanduser().absolute().name
        stem = _NOT_IN_NAMES.sub("-", last).strip("-._")[:56] or "store"
        number = 1
        while (name := stem if number == 1 else f"{stem}-{number}") in names:
            number += 1
        names.append(name)
    return tuple(names)


def destination_of_argument(
    uri: str, *, name: str = "destination", environment: Mapping[str, str] = os.environ
) -> DestinationSettings:
    """Return the destination of ``--to`` or ``--against``, with its credentials.

    These are in the URI or in MLFLOW_TRACKING_*; for a workspace, those of ``sign_in_of_environment``.

    Raises:
        ConfigError: it is not the URI of a tracking server that this version reaches.
    """
    document = Document(Path("command line"), KeyLines(""), environment)
    settings = read_destination(Table(document, (), {"name": name, "uri": uri.replace("${", "$${")}))
    if document.problems or not isinstance(settings, DestinationSettings):
        problem = document.problems[0]
        raise ConfigError(
            problem.message, doing="reading the destination", target=_without_userinfo(uri), hint=problem.hint
        )
    [completed], _ = with_environment_credentials([settings], environment)
    assert isinstance(completed, DestinationSettings)
    return completed


def _refuse_what_is_no_database(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError:  # who reads it says why it cannot be read
        return
    if not may_be_database(head):
        raise SourceError(
            "it is not an SQLite database",
            doing="reading the MLflow database",
            target=str(path),
            hint="name MLflow's .db file, or a directory with a FileStore",
        )


def _without_userinfo(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
