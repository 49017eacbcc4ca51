"""The artifact calls of run history (``/history/v1.0<SC>/…``) and of local uploads (``/artifact/v2.0<SC>/…``)."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

from aiohttp import web

from tests.standins.azureml.artifacts import Shelf
from tests.standins.azureml.refusals import Refused
from tests.standins.azureml.runs import Json
from tests.standins.azureml.state import Route, State

Listing = Callable[[Shelf, str, str], tuple[list[Json], str]]


class ArtifactApi:
    """Registers, lists and finds artifacts; their bytes go to storage."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._artifacts = state.artifacts

    def routes(self) -> list[Route]:
        scope = self._state.place.scope
        by_name = f"/history/v1.0{scope}/experiments/{{experiment}}/runs/{{run}}/artifacts"
        by_id = f"/history/v1.0{scope}/experimentids/{{experiment}}/runs/{{run}}/artifacts"
        local = f"/artifact/v2.0{scope}/artifacts/{{origin}}/{{container}}"
        made = [route for base in (by_name, by_id, local) for route in self._routes_below(base)]
        return [*made, Route("history", "artifacts/write", "GET", f"{local}/write", self._write)]

    def _routes_below(self, base: str) -> list[Route]:
        return [
            Route("history", "artifacts/batch/metadata", "POST", f"{base}/batch/metadata", self._register),
            Route("history", "artifacts/contentinfo", "GET", f"{base}/contentinfo", self._content),
            Route("history", "artifacts/prefix/contentinfo", "GET", f"{base}/prefix/contentinfo", self._contents),
            Route("history", "artifacts/list", "GET", base, self._list),
            Route("history", "artifacts/list", "GET", f"{base}/path", self._list),
        ]

    def _shelf(self, request: web.Request) -> Shelf:
        """Return what a request is about; refuses an unknown run and a run of another experiment."""
        asked = request.match_info
        if "run" not in asked:
            return Shelf(asked["origin"], asked["container"])
        run = self._state.tracking.runs.get(asked["run"])
        if run is None:
            raise Refused(404, "UserError", f"Run {asked['run']} was not found.")
        experiment = self._state.tracking.experiments[run.experiment_id]
        if asked["experiment"] not in (experiment.identity, experiment.name):
            raise Refused(404, "UserError", f"Run {run.identity} is not in experiment {asked['experiment']}.")
        return Shelf.of_run(run.identity)

    async def _register(self, request: web.Request) -> web.StreamResponse:
        shelf = self._shelf(request)
        try:
            paths = [str(item["path"]) for item in json.loads(await request.read())["paths"]]
        except (ValueError, KeyError, TypeError) as exc:
            raise Refused(400, "UserError", f"The body is not understood: {exc!r}") from exc
        return web.json_response(self._artifacts.register(shelf, paths))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._artifacts.content(self._shelf(request), request.query.get("path", "")))

    async def _write(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._artifacts.writable(self._shelf(request), request.query.get("path", "")))

    async def _contents(self, request: web.Request) -> web.StreamResponse:
        return self._paged(request, self._artifacts.contents)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return self._paged(request, self._artifacts.listing)

    def _paged(self, request: web.Request, listing: Listing) -> web.Response:
        query = request.query
        kept, following = listing(self._shelf(request), query.get("path", ""), query.get("continuationToken", ""))
        link = f"{self._state.place.url}{request.rel_url.raw_path}?continuationToken={following}"
        if query.get("path"):
            link += f"&path={quote(query['path'])}"
        answer = {"value": kept, "continuationToken": following or None, "nextLink": link if following else None}
        return web.json_response(answer)
