"""The switches for another process: ``GET``, ``POST`` and ``DELETE`` of ``/__standin__``, without a token.

``POST`` takes any of: ``latency_s``, ``denied`` (kinds), ``faults`` (list of Fault's fields), ``limits`` and ``habits``
(names to values), ``token_lifetime_s``, ``sas_lifetime_s``, ``refuse_tokens``, ``expire_tokens``, ``expire_sas``,
``clear_log``. ``GET`` tells how many requests came, by kind, and what is stored. ``DELETE`` turns faults off.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from aiohttp import web

from tests.standins.azureml.faults import Fault
from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.state import Route, State

CONTROL = "/__standin__"


class ControlApi:
    """Reads and sets what a test in the same process sets on ``State`` itself."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        return [
            Route("control", "control", "GET", CONTROL, self._tell),
            Route("control", "control", "POST", CONTROL, self._set),
            Route("control", "control", "DELETE", CONTROL, self._clear),
        ]

    async def _tell(self, _request: web.Request) -> web.StreamResponse:
        state = self._state
        runs = state.tracking.runs.values()
        body = {
            "counts": state.log.counts(),
            "latency_s": state.faults.latency_s,
            "denied": sorted(state.faults.denied),
            "faults": [asdict(fault) for fault in state.faults.pending],
            "limits": asdict(state.limits),
            "habits": asdict(state.habits),
            "stored": {
                "experiments": len(state.tracking.experiments),
                "runs": len(runs),
                "points": sum(len(points) for run in runs for points in run.series.values()),
                "artifacts": sum(len(paths) for paths in state.artifacts.registered.values()),
                "blob_bytes": sum(blob.size for blob in state.blobs.blobs.values()),
            },
        }
        return web.json_response(body)

    async def _set(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        try:
            for name, value in asked.items():
                self._set_one(name, value)
        except (AttributeError, TypeError, ValueError, KeyError) as exc:
            return web.json_response({"error": repr(exc)}, status=400)
        return await self._tell(request)

    def _set_one(self, name: str, value: Any) -> None:
        state = self._state
        match name:
            case "latency_s":
                state.faults.latency_s = float(value)
            case "denied":
                state.faults.denied = set(value)
            case "faults":
                state.faults.add(*(Fault(**fault) for fault in value))
            case "limits" | "habits":
                for attribute, setting in value.items():
                    assign(getattr(state, name), attribute, setting)
            case "token_lifetime_s":
                state.identity.lifetime_s = float(value)
            case "sas_lifetime_s":
                state.access.lifetime_s = float(value)
            case "refuse_tokens":
                state.identity.refusal = Refused(400, "invalid_client", "Refused on purpose.") if value else None
            case "expire_tokens":
                state.identity.expire_all()
            case "expire_sas":
                state.access.expire_all()
            case "clear_log":
                state.log.clear()
            case _:
                raise KeyError(name)

    async def _clear(self, request: web.Request) -> web.StreamResponse:
        self._state.faults.clear()
        self._state.identity.refusal = None
        return await self._tell(request)


def assign(target: object, attribute: str, value: object) -> None:
    """Set an attribute that is there already; a misspelt one is an error."""
    if not hasattr(target, attribute):
        raise AttributeError(attribute)
    setattr(target, attribute, json.loads(json.dumps(value)))
