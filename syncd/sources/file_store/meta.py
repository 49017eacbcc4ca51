r"""Parse meta.yaml, in every variant that MLflow ever wrote.

Rules
-----
1. What is parsed as YAML must be a mapping; unknown keys are ignored.
2. MLflow's own files are flat ``key: scalar`` lines; those are parsed by one regular expression a line, some fifty
   times faster than by YAML (a store has thousands of them). Anything else goes through ``yaml.CSafeLoader``.
3. Where a file leaves something out, the folder's name or a tag stands in; the callers decide that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

import yaml

from syncd.core.facts import RunStatus

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLAT_LINE = re.compile(
    r"(?P<key>[a-z_]+): (?:"
    r"(?P<int>-?[1-9][0-9]{0,18}|0)"
    r"|(?P<null>null)"
    r"|'(?P<quoted>[^'\\\x00-\x1f\x7f-\uffff]*)'"
    r"|(?P<path>(?:file|s3|gs):/[A-Za-z0-9_./%+=\-]*|/[A-Za-z0-9_./%+=\-]*|\./[A-Za-z0-9_./%+=\-]*)"
    r"|(?P<word>[a-zA-Z][a-zA-Z0-9_\-]*)"
    r"|(?P<hex>(?=[0-9a-f]*[a-f])[1-9][0-9a-f]{31})"
    r"|(?P<list>\[\])|(?P<map>\{\}))"
)
# YAML 1.1 reads these words as bool or null (y and n too, in some readers).
_NOT_TEXT = frozenset({"yes", "no", "true", "false", "on", "off", "null", "y", "n"})

RUN_STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)
_STATUS_BY_NUMBER: dict[int, RunStatus] = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_MODEL_STATUS_BY_NUMBER = {0: "PENDING", 1: "PENDING", 2: "READY", 3: "FAILED"}


class MetaUnreadable(ValueError):
    """The file is empty, torn or no mapping; ``str()`` says which."""


def parse_meta(content: bytes) -> Mapping[str, Any]:
    """Parse a meta.yaml.

    Raises:
        MetaUnreadable: it is empty (perhaps being written just now), not UTF-8, not YAML, or no mapping.
    """
    if not content.strip():
        raise MetaUnreadable("is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MetaUnreadable("is not UTF-8") from None
    return _parse_flat(text) or _parse_yaml(text)


def _parse_flat(text: str) -> dict[str, Any] | None:
    """Parse flat lines; None when a line is not plainly flat."""
    meta: dict[str, Any] = {}
    if not text.endswith("\n"):
        return None
    for line in text[:-1].split("\n"):
        match = _FLAT_LINE.fullmatch(line.rstrip("\r"))
        if not match:
            return None
        kind, value = match.lastgroup, match.group(match.lastgroup or 0)
        parsed: Any = value
        if kind == "int":
            parsed = int(value)
        elif kind == "null":
            parsed = None
        elif kind == "list":
            parsed = []
        elif kind == "map":
            parsed = {}
        elif kind == "word" and value.lower() in _NOT_TEXT:
            return None
        meta[match.group("key")] = parsed
    return meta


def _parse_yaml(text: str) -> Mapping[str, Any]:
    try:
        parsed = yaml.load(text, Loader=_LOADER)  # noqa: S506 - a safe loader, in C where it is built
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        problem = getattr(exc, "problem", None) or exc
        raise MetaUnreadable(f"is no YAML ({problem})") from None
    if not isinstance(parsed, dict):
        raise MetaUnreadable("holds no mapping")
    return {str(key): value for key, value in parsed.items()}


def text_of(meta: Mapping[str, Any], *keys: str) -> str:
    """Return the first of those keys that holds something, as text; "" if none."""
    for key in keys:
        value = meta.get(key)
        if value is not None and value != "" and not isinstance(value, (dict, list)):
            return str(value)
    return ""


def milliseconds_of(meta: Mapping[str, Any], *keys: str) -> int | None:
    """Return the first of those keys that holds a time in ms, or None."""
    for key in keys:
        value = meta.get(key)
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
            return int(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63:
            return int(value)
    return None


def run_status_of(meta: Mapping[str, Any]) -> RunStatus:
    """Return a run's status, written as number or name; a missing or unknown one is RUNNING, as in MLflow."""
    value = meta.get("status")
    if isinstance(value, int):
        return _STATUS_BY_NUMBER.get(value, "RUNNING")
    name = str(value).rpartition(".")[2].upper()
    if name.isdigit():
        return _STATUS_BY_NUMBER.get(int(name[:3]), "RUNNING")
    return next((status for status in RUN_STATUSES if status == name), "RUNNING")


def model_status_of(meta: Mapping[str, Any]) -> str:
    """Return a logged model's status: PENDING, READY or FAILED."""
    value = meta.get("status")
    if isinstance(value, int):
        return _MODEL_STATUS_BY_NUMBER.get(value, "PENDING")
    name = str(value).upper()
    if name.endswith("READY"):
        return "READY"
    return "FAILED" if name.endswith("FAILED") else "PENDING"


def is_deleted(meta: Mapping[str, Any]) -> bool:
    """Tell whether the lifecycle stage says deleted."""
    return str(meta.get("lifecycle_stage") or "").lower() == "deleted"


def inline_tags(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return tags written inside meta.yaml: a mapping, or a list of ``{key, value}``."""
    tags = meta.get("tags")
    if isinstance(tags, dict):
        return {str(key): "" if value is None else str(value) for key, value in tags.items()}
    if not isinstance(tags, list):
        return {}
    return {
        str(tag["key"]): "" if tag.get("value") is None else str(tag["value"])
        for tag in tags
        if isinstance(tag, dict) and "key" in tag
    }
