"""Metrics in the text format of Prometheus (version 0.0.4), made from what ``status`` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from syncd.http.counts import HttpCounts
from syncd.sources.webhook import HookCounts

_HELP: Final = {
    "syncd_info": ("gauge", "The version that runs."),
    "syncd_journal_bytes": ("gauge", "Bytes in use inside the journal."),
    "syncd_journal_max_bytes": ("gauge", "journal_max_bytes of the configuration."),
    "syncd_disk_free_bytes": ("gauge", "Bytes that are free on the journal's file system."),
    "syncd_problems": ("gauge", "What in the sources cannot be read as it is."),
    "syncd_destination_up": ("gauge", "1 if the destination takes requests, 0 if it is down or refuses."),
    "syncd_runs_sent_total": ("counter", "Runs that have an identity on the destination."),
    "syncd_points_sent_total": ("counter", "Points delivered."),
    "syncd_artifacts_sent_total": ("counter", "Artifacts delivered."),
    "syncd_bytes_sent_total": ("counter", "Bytes delivered."),
    "syncd_points_waiting": ("gauge", "Points that wait for the destination."),
    "syncd_artifacts_waiting": ("gauge", "Artifacts that wait for the destination."),
    "syncd_changes_waiting": ("gauge", "Changes that wait for the destination."),
    "syncd_bytes_waiting": ("gauge", "Bytes that wait for the destination."),
    "syncd_oldest_unsynced_seconds": ("gauge", "Age of the oldest that waits for the destination, 0 for nothing."),
    "syncd_dead_letters": ("gauge", "What the destination refused and is kept."),
    "syncd_overflow": ("gauge", "Values kept in overflow documents."),
    "syncd_sink_up": ("gauge", "1 if the sink takes events, 0 if it is down, refuses or has gone."),
    "syncd_events_sent_total": ("counter", "Events that the sink took."),
    "syncd_events_waiting": ("gauge", "Events behind the sink's cursor."),
    "syncd_events_dropped_total": ("counter", "Events that went by while the sink was away for too long."),
    "syncd_event_dead_letters": ("gauge", "Events that the sink refused and are kept."),
    "syncd_messages_total": ("counter", "Events of messages by what became of them; of what is refused, messages."),
    "syncd_message_dead_letters": ("gauge", "Messages that were refused and are kept here."),
    "syncd_hook_requests_total": ("counter", "Requests to a webhook since the start, by what they were answered."),
    "syncd_http_answers_total": ("counter", "Answers of the HTTP server since the start."),
    "syncd_http_connections": ("gauge", "Connections to the HTTP server."),
    "syncd_http_connections_cut_off_total": ("counter", "Connections cut off since the start: too slow, or too many."),
}
_TAKES: Final = ("up", "throttled")


def metrics_text(status: Mapping[str, Any], *, version: str, hooks: Mapping[str, HookCounts], http: HttpCounts) -> str:
    """Return all metrics of one status, those of webhooks by their names, and those of the HTTP server."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for name, labels, value in (*_samples(status, version), *_of_hooks(hooks), *_of_http(http)):
        samples.setdefault(name, []).append((labels, value))
    lines: list[str] = []
    for name, (kind, text) in _HELP.items():
        if name in samples:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples[name]]
    return "\n".join(lines) + "\n"


def _samples(status: Mapping[str, Any], version: str) -> Iterator[tuple[str, dict[str, str], float]]:
    yield "syncd_info", {"version": version}, 1
    journal = status["journal"]
    yield "syncd_journal_bytes", {}, journal["used_bytes"]
    if journal["max_bytes"] is not None:
        yield "syncd_journal_max_bytes", {}, journal["max_bytes"]
    yield "syncd_disk_free_bytes", {}, journal["free_disk_bytes"]
    yield "syncd_problems", {}, len(status["problems"])
    for destination in status["destinations"]:
        labels = {"destination": destination["name"]}
        yield "syncd_destination_up", labels, destination["state"] in _TAKES
        for what in ("runs", "points", "artifacts", "bytes"):
            yield f"syncd_{what}_sent_total", labels, destination["sent"][what]
        for what in ("points", "artifacts", "changes", "bytes"):
            yield f"syncd_{what}_waiting", labels, sum(one[what] for one in destination["waiting"])
        yield "syncd_oldest_unsynced_seconds", labels, destination["oldest_unsynced_s"] or 0
        yield "syncd_dead_letters", labels, destination["dead_letters"]
        yield "syncd_overflow", labels, destination["overflow"]
    for sink in status["sinks"]:
        labels = {"sink": sink["name"]}
        yield "syncd_sink_up", labels, sink["state"] in _TAKES
        yield "syncd_events_sent_total", labels, sink["sent"]
        yield "syncd_events_waiting", labels, sink["waiting"]
        yield "syncd_events_dropped_total", labels, sink["dropped"]
        yield "syncd_event_dead_letters", labels, sink["dead_letters"]
    for source in status["messages"]:
        for outcome in ("taken", "repeated", "ignored", "refused"):
            yield "syncd_messages_total", {"source": source["source"], "outcome": outcome}, source[outcome]
        yield "syncd_message_dead_letters", {"source": source["source"]}, source["dead_letters"]


def _of_hooks(hooks: Mapping[str, HookCounts]) -> Iterator[tuple[str, dict[str, str], float]]:
    for source, counts in hooks.items():
        for outcome, count in asdict(counts).items():
            yield "syncd_hook_requests_total", {"source": source, "outcome": outcome}, count


def _of_http(counts: HttpCounts) -> Iterator[tuple[str, dict[str, str], float]]:
    for status, count in sorted(counts.answers.items()):
        yield "syncd_http_answers_total", {"status": str(status)}, count
    yield "syncd_http_connections", {}, counts.connections
    yield "syncd_http_connections_cut_off_total", {}, counts.cut_off


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{pairs}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
