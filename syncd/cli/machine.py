"""Look at the machine: what ``syncd doctor`` reports, one function for each matter.

Rules
-----
1. A function that decides is given what it decides upon (text of a /proc file, numbers); a thin one beside it reads.
2. Nothing is changed: no directory is made, no database is opened.
"""

from __future__ import annotations

import asyncio
import email.utils
import http.client
import platform
import resource
import shutil
import sqlite3
import ssl
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from syncd import __version__
from syncd.azure.sign_in import FixedToken
from syncd.cli.probing import probe_destination
from syncd.cli.report import duration_text, size_text
from syncd.configuration import Configuration, DestinationSettings, MlflowDbSettings, RelaySettings
from syncd.core.jwt import expiry_of
from syncd.errors import AuthFailed, SyncdError

State = Literal["ok", "warning", "problem", "unknown"]

# Kinds whose files other machines may change. SQLite's WAL needs shared memory, which these do not have
# (sqlite.org/wal.html, read 2026-11), and inotify does not report what another machine writes (inotify(7)).
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "virtiofs"}
    | {f"fuse.{name}" for name in ("blobfuse", "blobfuse2", "gcsfuse", "glusterfs", "rclone", "s3fs", "sshfs")}
)
DEPENDENCIES = (
    "aiohttp",
    "tenacity",
    "structlog",
    "pyyaml",
    "asyncinotify",
    "rich",
    "azure-identity",
    "azure-servicebus",
    "aiomqtt",
    "paho-mqtt",
    "msgspec",
    "mlflow",
    "azureml-mlflow",
)
WATCHES_WANTED = 8192
INSTANCES_WANTED = 128
OPEN_FILES_WANTED = 1024
SKEW_ALLOWED_S = 5.0
STEP_ALLOWED_S = 0.05
_INOTIFY = Path("/proc/sys/fs/inotify")
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Finding:
    """One matter: its name, how it is, the value found, and what to do about it ("" when nothing)."""

    name: str
    state: State
    value: str
    advice: str = ""


def examine(configuration: Configuration) -> list[Finding]:
    """Return all findings for that configuration."""
    state_dir, mounts = configuration.daemon.state_dir, _read(_MOUNTS)
    findings = [*inotify_limits(), open_file_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
    findings.append(state_file_system(state_dir, file_system_kind(state_dir, mounts)))
    for source in configuration.sources:
        paths = (source.path,) if isinstance(source, MlflowDbSettings) else source.paths
        findings += [source_file_system(source.name, path, file_system_kind(path, mounts)) for path in paths]
    free_bytes = shutil.disk_usage(nearest_existing(state_dir)).free
    findings.append(free_space(free_bytes, journal_max_bytes=configuration.daemon.journal_max_bytes))
    findings.append(clock_step(_measured_step_s()))
    for destination in configuration.servers:
        findings += [*reached(destination, now_s=time.time()), clock_skew(destination)]
    findings += [judge_answer(relay, _answer_of(relay)) for relay in configuration.relays]
    return [*findings, *versions()]


def nearest_existing(path: Path) -> Path:
    """Return the path itself or the nearest parent that exists."""
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def file_system_kind(path: Path, mounts: str) -> str:
    """Return the kind of file system that holds ``path``, "" if unknown; ``mounts`` is mountinfo's text (proc(5))."""
    real = nearest_existing(path.absolute()).resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if len(fields.split()) < 5 or not rest:
            continue
        mount_point = Path(_unescape(fields.split()[4]))
        depth = len(mount_point.parts)
        if real.is_relative_to(mount_point) and depth >= best:  # a later mount hides an earlier one
            best, kind = depth, rest.split()[0]
    return kind


def state_file_system(state_dir: Path, kind: str) -> Finding:
    """Judge the file system of the journal."""
    name, value = "file system of state_dir", f"{kind or 'unknown'} ({state_dir})"
    if kind in NETWORK_FILE_SYSTEMS:
        return Finding(name, "problem", value, "SQLite's WAL is not safe there: put state_dir on a local disk")
    if kind in ("tmpfs", "ramfs"):
        return Finding(name, "warning", value, "the journal is lost when the machine restarts")
    if kind == "overlay":
        return Finding(name, "warning", value, "lost with the container: mount a volume there")
    return Finding(name, "ok" if kind else "unknown", value)


def source_file_system(source: str, path: Path, kind: str) -> Finding:
    """Judge the file system of a source."""
    name, value = f"file system of source {source}", f"{kind or 'unknown'} ({path})"
    if not path.exists():
        return Finding(name, "warning", value, "it is not there yet")
    if kind in NETWORK_FILE_SYSTEMS:
        advice = "changes made by other machines are seen by polling only (poll_interval_s, reconcile_interval_s)"
        return Finding(name, "warning", value, advice)
    return Finding(name, "ok" if kind else "unknown", value)


def inotify_limits() -> list[Finding]:
    """Judge the limits of the watcher."""
    wanted = {"max_user_watches": WATCHES_WANTED, "max_user_instances": INSTANCES_WANTED}
    return [inotify_limit(name, _read(_INOTIFY / name), least) for name, least in wanted.items()]


def inotify_limit(name: str, text: str, least: int) -> Finding:
    """Judge one limit; ``text`` is its /proc file."""
    if not text.strip().isdecimal():
        return Finding(f"inotify {name}", "unknown", "not readable", "syncd polls where it cannot watch")
    value = int(text)
    if value < least:
        advice = f"sysctl fs.inotify.{name}={least} or more; until then some stores are polled, not watched"
        return Finding(f"inotify {name}", "warning", str(value), advice)
    return Finding(f"inotify {name}", "ok", str(value))


def open_file_limit(soft: int) -> Finding:
    """Judge the number of files that may be open."""
    value = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    if 0 <= soft < OPEN_FILES_WANTED:
        return Finding("open files", "warning", value, f"raise it to {OPEN_FILES_WANTED} (ulimit -n, LimitNOFILE=)")
    return Finding("open files", "ok", value)


def free_space(free_bytes: int, *, journal_max_bytes: int) -> Finding:
    """Judge the space for the journal."""
    value = f"{size_text(free_bytes)} for the journal"
    if free_bytes < journal_max_bytes:
        advice = f"journal_max_bytes is {size_text(journal_max_bytes)}: free some space or lower it"
        return Finding("free space", "warning", value, advice)
    return Finding("free space", "ok", value)


def clock_step(step_s: float) -> Finding:
    """Judge by how much wall and monotonic time differ over a short while."""
    value = f"wall and monotonic time differ by {abs(step_s) * 1000:.0f} ms"
    if abs(step_s) > STEP_ALLOWED_S:
        return Finding("clock", "warning", value, "the clock is being set: check NTP")
    return Finding("clock", "ok", value)


def clock_skew(destination: DestinationSettings) -> Finding:
    """Ask the destination for the time (the Date header of any answer)."""
    name = f"clock against {destination.name}"
    try:
        date, asked_at_s = _ask_date(destination)
    except (OSError, http.client.HTTPException) as error:
        return Finding(name, "unknown", f"no answer: {error}", "syncd validate says more")
    return judge_skew(name, date, asked_at_s)


def judge_skew(name: str, date: str, asked_at_s: float) -> Finding:
    """Judge the difference between a Date header (whole seconds) and the wall time at which it was asked for."""
    try:
        server_s = email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return Finding(name, "unknown", "the server tells no time")
    skew_s = server_s + 0.5 - asked_at_s
    value = f"this machine is {abs(skew_s):.1f} s {'behind' if skew_s > 0 else 'ahead'}"
    if abs(skew_s) > SKEW_ALLOWED_S:
        return Finding(name, "warning", value, "tokens and times of runs suffer: check NTP")
    return Finding(name, "ok", value)


def reached(destination: DestinationSettings, *, now_s: float) -> list[Finding]:
    """Reach the destination with its credentials, and say how both are."""
    answer = _answer_of(destination)
    return [judge_answer(destination, answer), credentials(destination, now_s=now_s, answer=answer)]


def _answer_of(destination: DestinationSettings | RelaySettings) -> str | SyncdError:
    """Return what a destination is, or why it could not be asked."""
    try:
        return asyncio.run(probe_destination(destination))
    except SyncdError as error:
        return error


def judge_answer(destination: DestinationSettings | RelaySettings, answer: str | SyncdError) -> Finding:
    """Judge whether a destination can be reached; ``answer`` is what it is, or why it could not be asked."""
    name = f"destination {destination.name}"
    if isinstance(answer, AuthFailed):
        is_workspace = isinstance(destination, DestinationSettings) and destination.workspace is not None
        told = "could not be asked" if is_workspace else "answers, and refuses the credentials"
        return Finding(name, "unknown" if is_workspace else "ok", f"{destination.uri} {told}")
    if isinstance(answer, SyncdError):
        advice = f"{answer.hint or 'check the address and the server'}; syncd keeps what it reads until it answers"
        return Finding(name, "problem", f"{destination.uri} cannot be used: {_words_of(answer)}", advice)
    return Finding(name, "ok", f"{destination.uri} answers: {answer}")


def credentials(destination: DestinationSettings, *, now_s: float, answer: str | SyncdError) -> Finding:
    """Say which credentials a destination has, what became of trying them, and whether a token has run out.

    Args:
        destination: whose credentials.
        now_s: wall time, seconds since the epoch.
        answer: what the destination said to a request with them, or why it could not be asked.
    """
    name, value = f"credentials of {destination.name}", _kind_of_credentials(destination)
    token = _fixed_token(destination)
    expires_at_s = expiry_of(token) if token else None
    if expires_at_s is not None and expires_at_s <= now_s:
        return Finding(name, "problem", f"{value}, ran out {duration_text(now_s - expires_at_s)} ago", "get a new one")
    if expires_at_s is not None:
        value = f"{value}, good for {duration_text(expires_at_s - now_s)}"
    if isinstance(answer, AuthFailed):
        return Finding(name, "problem", f"{value}, refused: {answer.message}", answer.hint)
    if isinstance(answer, SyncdError):
        return Finding(name, "unknown", f"{value}, not tried: the destination could not be asked")
    return Finding(name, "ok", f"{value}, accepted when the experiments were asked for (writing was not tried)")


def _fixed_token(destination: DestinationSettings) -> str:
    if destination.workspace is not None:
        sign_in = destination.workspace.sign_in
        return sign_in.token.reveal() if isinstance(sign_in, FixedToken) else ""
    return destination.token.reveal() if destination.token is not None else ""


def _kind_of_credentials(destination: DestinationSettings) -> str:
    if destination.workspace is not None:
        return str(destination.workspace.sign_in)
    if destination.token is not None:
        return f"token from {destination.token.origin}"
    return f"user {destination.username}" if destination.username is not None else "none"


def _words_of(error: SyncdError) -> str:
    return " ".join(part for part in (error.doing, error.target) if part) + f": {error.message}"


def versions() -> list[Finding]:
    """Return the versions of syncd, Python, SQLite and the dependencies."""
    findings = [
        Finding("version of syncd", "ok", __version__),
        Finding("version of python", "ok", f"{platform.python_version()} on {platform.system()} {platform.release()}"),
        Finding("version of sqlite", "ok", sqlite3.sqlite_version),
    ]
    for name in DEPENDENCIES:
        try:
            findings.append(Finding(f"version of {name}", "ok", metadata.version(name)))
        except metadata.PackageNotFoundError:
            findings.append(Finding(f"version of {name}", "problem", "missing", "install syncd with its dependencies"))
    return findings


def _address_of(destination: DestinationSettings) -> str:
    """Return the URL of a server that is asked for the time: the workspace's, or its cloud's while it is not known."""
    if destination.workspace is None:
        return destination.uri
    host = destination.workspace.address.host
    return f"https://{host}/" if host else destination.workspace.cloud.resource_manager


def _ask_date(destination: DestinationSettings) -> tuple[str, float]:
    parts = urlsplit(_address_of(destination))
    host, timeout_s = parts.hostname or "", destination.connect_timeout_s
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        cafile = str(destination.ca_file) if destination.ca_file else None
        context = ssl.create_default_context(cafile=cafile)
        connection = http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    try:
        connection.connect()
        before_s = time.time()
        connection.request("HEAD", parts.path or "/")
        date = connection.getresponse().getheader("Date", "")
        return date, (before_s + time.time()) / 2
    finally:
        connection.close()


def _measured_step_s(window_s: float = 0.2) -> float:
    wall_s, monotonic_s = time.time(), time.monotonic()
    time.sleep(window_s)
    return (time.time() - wall_s) - (time.monotonic() - monotonic_s)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _unescape(text: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
