"""Where a ``sqlite:`` URI of MLflow's points."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from syncd.errors import ConfigError

_SCHEME = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<rest>.*)$")


def database_path(uri: str, base: Path) -> Path:
    """Return the database file that ``uri`` names, as SQLAlchemy would find it.

    Args:
        uri: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite:///C:/windows.db`` or a plain path.
        base: directory that relative paths start from.

    Raises:
        ConfigError: another dialect, or no file in it.
    """
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return _under(base, uri, uri)
    dialect = scheme["scheme"].lower().split("+")[0]
    if dialect != "sqlite":
        raise _refused(uri, f"the dialect {dialect!r} is not read by syncd")
    rest = scheme["rest"].partition("?")[0]
    if not rest.startswith("///"):
        raise _refused(uri, "a sqlite URI has three slashes before a relative path and four before an absolute one")
    return _under(base, unquote(rest[3:]), uri)


def _under(base: Path, path: str, uri: str) -> Path:
    if path in {"", ":memory:"}:
        raise _refused(uri, "it names no file")
    return base / Path(path).expanduser()


def _refused(uri: str, why: str) -> ConfigError:
    shown = re.sub(r"//[^/@]*@", "//…@", uri)  # a password never reaches a log
    return ConfigError(
        why,
        doing="reading the uri of an mlflow-db source",
        target=shown,
        hint="use sqlite:///relative.db, sqlite:////absolute.db or a path; "
        "for a database server point a destination's `mlflow server` at it instead",
    )
