"""MLflow's JSON shapes, and the few questions that writer and reader both ask."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, Literal

from syncd.core.limits import Limits
from syncd.core.requests import LogBatch
from syncd.destinations.mlflow_errors import NotMlflow
from syncd.destinations.mlflow_rest import API, MlflowRest
from syncd.errors import AuthFailed, OutcomeUnknown, Rejected
from syncd.rest.client import Json, encode_json

SQL_ID_MAX_DIGITS: Final = 9
Duplicates = Literal["auto", "ignored", "appended"]
Entries = list[dict[str, str]]


def entries(values: Mapping[str, str]) -> Entries:
    """Return MLflow's list of {"key", "value"}."""
    return [{"key": key, "value": value} for key, value in values.items()]


def pairs(listed: Iterable[Mapping[str, Any]] | None) -> dict[str, str]:
    """Return the mapping behind MLflow's list of {"key", "value"}; an absent value is ""."""
    return {str(item["key"]): str(item.get("value", "")) for item in listed or ()}


def part(answer: Mapping[str, Any], key: str, *, doing: str, target: str = "") -> Json:
    """Return an object inside an answer; OutcomeUnknown if it is not there (something else than MLflow answered)."""
    value = answer.get(key)
    if not isinstance(value, dict):
        raise OutcomeUnknown(f"the answer lacks {key!r}", doing=doing, target=target)
    return value


def batch_body(request: LogBatch) -> bytes:
    """Return the body of runs/log-batch; the points go in as they are.

    Points come last: MLflow's parser drops whatever follows a wrongly typed value, with a 200.
    """
    about = {"doing": "logging to run", "target": request.run_id}
    fields = [b'"run_id":' + encode_json(request.run_id, **about)]
    if request.params:
        fields.append(b'"params":' + encode_json(entries(request.params), **about))
    if request.tags:
        fields.append(b'"tags":' + encode_json(entries(request.tags), **about))
    if request.lines:
        fields.append(b'"metrics":[' + b",".join(request.lines) + b"]")
    return b"{" + b",".join(fields) + b"}"


async def server_version(rest: MlflowRest) -> str:
    """Return the server's version, "" when it does not say (a gateway may not let /version through)."""
    try:
        text = (await rest.text("/version", doing="asking for the version of")).strip()
    except (Rejected, AuthFailed, NotMlflow):
        return ""
    return text if re.fullmatch(r"\d+\.\d+[\w.+-]*", text) else ""


def limits_of(version: str) -> Limits:
    """Return what a server of that version stores whole (measured 2026-11; an unknown version gets the least).

    Tags are refused beyond 5,000 characters by 2.9 and silently cut to 8,000 from 2.22 on; params are refused or cut
    beyond 6,000 by all.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    major, minor = map(int, numbers.groups()) if numbers else (0, 0)
    tag_length = 8000 if (major, minor) >= (2, 22) else 5000
    return Limits(param_value_length=6000, tag_value_length=tag_length, experiment_tag_value_length=5000)


def ids_look_appending(ids: Iterable[str]) -> bool | None:
    """Return whether a store with these experiment ids appends repeated points; None when they do not tell.

    SQL stores count 1, 2, 3, FileStores draw 18 digits, Azure uses UUIDs; "0" is the default experiment of all.
    """
    telling = [identity for identity in ids if identity != "0"]
    if not telling:
        return None
    return not all(identity.isdecimal() and len(identity) <= SQL_ID_MAX_DIGITS for identity in telling)


def tag_filter(tag: str, value: str, comparator: Literal["=", "!="] = "=") -> str:
    """Return MLflow's search filter for a tag of that (or another) value; Rejected if its grammar cannot hold it."""
    quote = "'" if "'" not in value else '"'
    if quote in value:
        raise Rejected("an id with both kinds of quotes cannot be searched for", doing="finding", target=value)
    return f"tags.`{tag}` {comparator} {quote}{value}{quote}"


async def pages(
    rest: MlflowRest, path: str, body: Mapping[str, Any], field: str, *, doing: str, target: str = ""
) -> AsyncIterator[Json]:
    """Yield the objects of all pages of a search."""
    token = ""
    while True:
        asked = {**body, "page_token": token} if token else body
        answer = await rest.call("POST", f"{API}/{path}", asked, doing=doing, target=target)
        for item in answer.get(field, ()):
            yield item
        token = answer.get("next_page_token", "")
        if not token:
            return


def tag_of(run: Json, tag: str) -> str | None:
    """Return the value of a run's tag; None if it has none."""
    return pairs(run.get("data", {}).get("tags")).get(tag)


async def tagged_runs(rest: MlflowRest, experiment_id: str, tag: str) -> AsyncIterator[tuple[Json, str]]:
    """Yield the info and the tag's value of every active run of an experiment that carries the tag."""
    body = {
        "experiment_ids": [experiment_id],
        "filter": f"tags.`{tag}` LIKE '%'",
        "run_view_type": "ACTIVE_ONLY",
        "max_results": 500,
    }
    async for run in pages(rest, "runs/search", body, "runs", doing="listing the runs of", target=experiment_id):
        value = tag_of(run, tag)
        if value is not None:
            yield run["info"], value


async def runs_with_tag(rest: MlflowRest, experiment_id: str, tag: str, value: str) -> list[Json]:
    """Return the active runs of an experiment that carry exactly that tag value, by id."""
    body = {
        "experiment_ids": [experiment_id],
        "filter": tag_filter(tag, value),
        "run_view_type": "ACTIVE_ONLY",
        "max_results": 100,
    }
    found = [
        run
        async for run in pages(rest, "runs/search", body, "runs", doing="searching for run", target=value)
        if tag_of(run, tag) == value  # some databases compare without regard to case
    ]
    return sorted(found, key=lambda run: str(run["info"]["run_id"]))
