"""Find a configuration file, read it, and say everything that is wrong with it at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from syncd.configuration.credentials import is_loopback, with_environment_credentials
from syncd.configuration.locating import KeyLines
from syncd.configuration.message_settings import WebhookSettings
from syncd.configuration.model import (
    Configuration,
    DaemonSettings,
    HttpSettings,
    LogFormat,
    LogLevel,
    MessageSourceSettings,
    SourceSettings,
)
from syncd.configuration.reading import Document, InvalidConfiguration, Problem, Table, warn_of_written_secret
from syncd.configuration.tables import read_destination, read_sink, read_source
from syncd.errors import ConfigError

DEFAULT_FILES = (Path("syncd.toml"), Path("/etc/syncd/syncd.toml"))
_NOT_YET_TABLES = ("rules",)
_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def find_file(option: str | None = None, *, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the configuration file: ``--config``, ``$SYNCD_CONFIG``, ``./syncd.toml``, ``/etc/syncd/syncd.toml``.

    Raises:
        ConfigError: there is none, or the one that was named does not exist.
    """
    for origin, name in (("--config", option), ("$SYNCD_CONFIG", environment.get("SYNCD_CONFIG"))):
        if name:
            if not Path(name).is_file():
                raise ConfigError("there is no such file", doing="reading the configuration", target=f"{origin} {name}")
            return Path(name)
    for path in DEFAULT_FILES:
        if path.is_file():
            return path
    raise ConfigError(
        "no configuration found: no --config, no $SYNCD_CONFIG, no ./syncd.toml, no /etc/syncd/syncd.toml",
        hint="examples are in config/ of the project, every key in docs/configuration.md",
    )


def load(file: Path, *, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Return the configuration that ``file`` holds.

    Args:
        file: a TOML file; relative paths in it are relative to its directory.
        environment: where ``${NAME}``, ``{ env = ... }`` and the MLFLOW_TRACKING_* defaults are looked up.

    Raises:
        ConfigError: the file cannot be read.
        InvalidConfiguration: all that is wrong in it, with line, key, what was expected and the nearest right key.
    """
    return parse(_text_of(file), file=file, environment=environment)


def load_daemon(file: Path, *, environment: Mapping[str, str] = os.environ) -> DaemonSettings:
    """Return the ``[daemon]`` table alone, for who asks about the journal: secrets of others need not be set.

    Raises as ``load``.
    """
    root = _root_of(_text_of(file), file, environment)
    settings = _read_daemon(root.table("daemon"))
    for key in ("sources", "destinations", "sinks", "http", *_NOT_YET_TABLES):
        root.has(key)
    root.refuse_unknown_keys(of="the file")  # a [deamon] would have us look for the journal in the wrong place
    if root.document.problems:
        raise InvalidConfiguration(file, root.document.problems)
    return settings


def parse(text: str, *, file: Path, environment: Mapping[str, str]) -> Configuration:
    """Return the configuration of a TOML text; ``file`` names it in messages. Raises as ``load``."""
    root = _root_of(text, file, environment)
    configuration = _read(root)
    if root.document.problems:
        raise InvalidConfiguration(file, root.document.problems)
    return configuration


def _text_of(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            error.strerror or str(error), doing="reading the configuration", target=str(file), hint="check its path"
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidConfiguration(file, [Problem(line, "", "not UTF-8 text", "TOML files are UTF-8")]) from error


def _root_of(text: str, file: Path, environment: Mapping[str, str]) -> Table:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidConfiguration(file, [_syntax_problem(str(error), text)]) from error
    return Table(Document(file, KeyLines(text), environment), (), content)


def _syntax_problem(message: str, text: str) -> Problem:
    match = _AT_LINE.search(message)
    line = int(match.group(1)) if match and match.group(1) else text.rstrip().count("\n") + 1
    what = message[: match.start()] if match else message
    return Problem(line, "", f"not TOML: {what}", "texts are quoted, tables are [name], lists of tables [[name]]")


def _read(root: Table) -> Configuration:
    document = root.document
    daemon = _read_daemon(root.table("daemon"))
    source_tables, destination_tables = root.tables("sources"), root.tables("destinations")
    sources = [source for table in source_tables if (source := read_source(table)) is not None]
    destinations = [found for table in destination_tables if (found := read_destination(table)) is not None]
    sink_tables = root.tables("sinks")
    sinks = [sink for table in sink_tables if (sink := read_sink(table)) is not None]
    http = _read_http(root.table("http")) if root.has("http") else None
    for key in _NOT_YET_TABLES:
        _refuse_not_yet(root, key)
    root.refuse_unknown_keys(of="the file")
    _refuse_duplicates(source_tables)
    _refuse_duplicates(destination_tables)
    _refuse_duplicates(sink_tables)
    for table in source_tables:
        if not root.has("http") and table.content.get("kind") == WebhookSettings.kind:
            table.refuse("kind", "webhooks come by the daemon's HTTP server: [http] is needed", "add [http]")
    for name in ("sources", "destinations"):
        if root.content.get(name, []) == []:
            document.refuse((), f"there is no [[{name}]]", "at least one source and one destination are needed")
    destinations, warning = with_environment_credentials(destinations, document.environment)
    if warning:
        document.warn(("destinations",), warning)
    return Configuration(
        daemon=daemon,
        sources=tuple(source for source in sources if isinstance(source, SourceSettings)),
        destinations=tuple(destinations),
        message_sources=tuple(source for source in sources if isinstance(source, MessageSourceSettings)),
        sinks=tuple(sinks),
        http=http,
        file=document.file,
        warnings=tuple(document.warnings),
    )


def _read_daemon(table: Table) -> DaemonSettings:
    default = DaemonSettings()
    settings = DaemonSettings(
        state_dir=table.path("state_dir", default.state_dir),
        flush_interval_s=table.seconds("flush_interval_s", default.flush_interval_s),
        shutdown_grace_s=table.seconds("shutdown_grace_s", default.shutdown_grace_s),
        journal_max_bytes=table.size_bytes("journal_max_bytes", default.journal_max_bytes),
        events_kept=table.integer("events_kept", default.events_kept, minimum=1),
        log_format=table.choice("log_format", get_args(LogFormat), default.log_format),
        log_level=table.choice("log_level", get_args(LogLevel), default.log_level),
        name=table.name() if table.has("name") else default.name,
    )
    table.refuse_unknown_keys(of="[daemon]")
    return settings


def _read_http(table: Table) -> HttpSettings:
    default = HttpSettings()
    listen = table.text("listen", f"{default.host}:{default.port}")
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if listen and not (host and port.isdecimal() and 0 <= int(port) < 65536):
        table.refuse("listen", f"expected HOST:PORT, found {listen!r}", 'for example "127.0.0.1:8700" or "[::1]:8700"')
        host, port = default.host, str(default.port)
    settings = HttpSettings(
        host=host or default.host,
        port=int(port or default.port),
        token=table.secret("token"),
        liveness_window_s=table.seconds("liveness_window_s", default.liveness_window_s),
    )
    if not table.has("token") and not is_loopback(settings.host):
        table.refuse(
            "listen", f"{settings.host} is not the loopback: a token is required", 'add token = { file = "PATH" }'
        )
    warn_of_written_secret(table, "token", settings.token)
    table.refuse_unknown_keys(of="[http]")
    return settings


def _refuse_not_yet(root: Table, key: str) -> None:
    if not root.has(key):
        return
    content: Any = root.content[key]
    for index in range(len(content) if isinstance(content, list) else 1):
        place = (key, index) if isinstance(content, list) else (key,)
        root.document.refuse(place, f"[[{key}]] are not in this version yet", "remove the table")


def _refuse_duplicates(tables: Iterable[Table]) -> None:
    first_lines: dict[str, int] = {}
    for table in tables:
        name, line = table.content.get("name"), table.document.lines.line_of((*table.place, "name"))
        if not isinstance(name, str) or not name:
            continue
        if name in first_lines:
            table.refuse("name", f"the name {name!r} is already used in line {first_lines[name]}", "names are unique")
        first_lines.setdefault(name, line)
