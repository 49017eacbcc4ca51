"""Find out what a store's schema has, instead of keying on MLflow's revision."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass, field
from functools import cached_property

from syncd.errors import SourceError, SourceNotReady
from syncd.sources.mlflow_db import queries

NEEDED = ("experiments", "runs", "metrics", "params", "tags")
MLFLOW_TABLES = frozenset({*NEEDED, "alembic_version", "latest_metrics", "registered_models", "model_versions"})
_COLUMN = re.compile(r"(\b[a-z]\.)?\{(\w+)\.(\w+)\}")


@dataclass(frozen=True)
class Schema:
    """Tables with their columns, and which can be followed by rowid or looked up by their first column."""

    version: int
    columns: dict[str, frozenset[str]]
    without_rowid: frozenset[str]
    indexed: dict[str, frozenset[str]]
    _filled: dict[str, str] = field(default_factory=dict)

    def has(self, *tables: str) -> bool:
        """Tell whether all these tables exist."""
        return all(table in self.columns for table in tables)

    def has_rowid(self, table: str) -> bool:
        """Tell whether the table exists and its rows can be followed by rowid."""
        return table in self.columns and table not in self.without_rowid

    @cached_property
    def has_logged_models(self) -> bool:
        """Tell whether the store knows MLflow 3's LoggedModels."""
        return self.has("logged_models", "logged_model_params", "logged_model_tags")

    def sql(self, query: str) -> str:
        """Fill the query's ``{table.column}`` with the column, or NULL where the store has none."""
        if query not in self._filled:
            self._filled[query] = _COLUMN.sub(self._column, query)
        return self._filled[query]

    def _column(self, match: re.Match[str]) -> str:
        alias, table, column = match.groups()
        if column not in self.columns.get(table, ()):
            return "NULL"
        return f'{alias or ""}"{column}"'


def schema_version(connection: sqlite3.Connection) -> int:
    """Return SQLite's counter of schema changes."""
    return int(connection.execute(queries.SCHEMA_VERSION).fetchone()[0])


def probe(connection: sqlite3.Connection, target: str) -> Schema:
    """Return the schema.

    Raises:
        SourceNotReady: MLflow has not created its tables yet, or is migrating them.
        SourceError: another program's database.
    """
    version = schema_version(connection)
    tables = {str(name): str(sql) for name, sql in connection.execute(queries.TABLES).fetchall()}
    missing = [table for table in NEEDED if table not in tables]
    if tables and MLFLOW_TABLES.isdisjoint(tables):
        raise SourceError(
            "it holds none of MLflow's tables",
            doing="reading the MLflow database",
            target=target,
            hint="point the source at the .db file that MLflow's tracking URI names",
        )
    if missing:
        raise SourceNotReady(
            f"MLflow has not created its tables yet (missing: {', '.join(missing)})",
            doing="reading the MLflow database",
            target=target,
            hint="it is read once a run was logged; a store with only registered models has nothing to bring over",
        )
    names = {name: _names(connection, queries.COLUMNS, name) for name in tables}
    unfit = {name for name, sql in tables.items() if _is_without_rowid(sql)}
    indexed = {name: _names(connection, queries.INDEXED, name) for name in NEEDED}
    return Schema(version=version, columns=names, without_rowid=frozenset(unfit), indexed=indexed)


def _names(connection: sqlite3.Connection, query: str, table: str) -> frozenset[str]:
    return frozenset(str(row[0]) for row in connection.execute(query, (table,)).fetchall())


def _is_without_rowid(sql: str) -> bool:
    return sql.upper().lstrip().startswith("CREATE VIEW") or re.search(r"WITHOUT\s+ROWID", sql, re.I) is not None
