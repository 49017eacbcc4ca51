"""MLflow's REST API as a workspace speaks it: ``/mlflow/v{1,2}.0<SC>/api/2.0/mlflow/…``.

What is not here answers 404 with an empty body, as the real service is said to do for ``logged-models``; so does all of
``api/3.0``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from tests.standins.azureml.refusals import bad_value, not_there
from tests.standins.azureml.runs import Batch, Json, batch_from
from tests.standins.azureml.state import Handler, Route, State
from tests.standins.azureml.tracking import run_id

Call = Callable[[Json], Json]
_LISTS: Final = ("experiment_ids", "order_by")


class TrackingApi:
    """Experiments and runs."""

    def __init__(self, state: State) -> None:
        self._tracking = state.tracking
        self._limits = state.limits
        self._scope = state.place.scope
        self._async_batches: set[str] = set()

    def routes(self) -> list[Route]:
        calls: list[tuple[str, str, Call]] = [
            ("POST", "experiments/create", self._create_experiment),
            ("GET", "experiments/get", self._get_experiment),
            ("GET", "experiments/get-by-name", self._get_experiment_by_name),
            ("POST", "experiments/search", self._search_experiments),
            ("GET", "experiments/search", self._search_experiments),
            ("POST", "experiments/set-experiment-tag", self._set_experiment_tag),
            ("POST", "runs/create", self._create_run),
            ("GET", "runs/get", self._get_run),
            ("POST", "runs/update", self._update_run),
            ("POST", "runs/search", self._search_runs),
            ("POST", "runs/delete", self._delete_run),
            ("POST", "runs/restore", self._restore_run),
            ("POST", "runs/log-batch", self._log_batch),
            ("POST", "runs/log-metric", self._log_metric),
            ("POST", "runs/log-parameter", self._log_param),
            ("POST", "runs/set-tag", self._set_tag),
            ("POST", "runs/delete-tag", self._delete_tag),
            ("POST", "runs/log-inputs", self._log_inputs),
            ("GET", "metrics/get-history", self._history),
        ]
        made = [route for method, name, call in calls for route in mlflow_routes(self._scope, method, name, call)]
        preview = f"/mlflow/{{version:v[12]\\.0}}{self._scope}/api/2.0/preview/mlflow/runs"
        return [
            *made,
            Route("tracking", "runs/log-batch-async", "POST", f"{preview}/log-batch-async", as_json(self._log_async)),
            Route("tracking", "runs/get-run-data-status", "GET", f"{preview}/get-run-data-status", as_json(self._done)),
        ]

    def _create_experiment(self, body: Json) -> Json:
        tags = {tag["key"]: tag.get("value", "") for tag in body.get("tags", ())}
        return {"experiment_id": self._tracking.create_experiment(str(body.get("name", "")), tags).identity}

    def _get_experiment(self, body: Json) -> Json:
        return {"experiment": self._tracking.experiment(str(body.get("experiment_id", ""))).as_json()}

    def _get_experiment_by_name(self, body: Json) -> Json:
        name = str(body.get("experiment_name", ""))
        found = self._tracking.experiment_named(name)
        if found is None:
            raise not_there(f"Experiment with name '{name}'")
        return {"experiment": found.as_json()}

    def _search_experiments(self, body: Json) -> Json:
        kept, following = self._tracking.search_page(self._tracking.search_experiments(body), body)
        return with_token({"experiments": [known.as_json() for known in kept]}, following)

    def _set_experiment_tag(self, body: Json) -> Json:
        self._tracking.experiment(str(body.get("experiment_id", ""))).tags[body["key"]] = body.get("value", "")
        return {}

    def _create_run(self, body: Json) -> Json:
        return {"run": self._tracking.create_run(body).as_json()}

    def _get_run(self, body: Json) -> Json:
        return {"run": self._tracking.run(run_id(body)).as_json()}

    def _update_run(self, body: Json) -> Json:
        return {"run_info": self._tracking.update_run(body).info_json()}

    def _search_runs(self, body: Json) -> Json:
        kept, following = self._tracking.search_page(self._tracking.search_runs(body), body)
        return with_token({"runs": [run.as_json() for run in kept]}, following)

    def _delete_run(self, body: Json) -> Json:
        self._tracking.run(run_id(body)).lifecycle_stage = "deleted"
        return {}

    def _restore_run(self, body: Json) -> Json:
        self._tracking.run(run_id(body)).lifecycle_stage = "active"
        return {}

    def _log_batch(self, body: Json) -> Json:
        self._tracking.log(run_id(body), batch_from(body))
        return {}

    def _log_metric(self, body: Json) -> Json:
        self._tracking.log(run_id(body), batch_from({"metrics": [body]}))
        return {}

    def _log_param(self, body: Json) -> Json:
        self._tracking.log(run_id(body), batch_from({"params": [body]}))
        return {}

    def _set_tag(self, body: Json) -> Json:
        self._tracking.log(run_id(body), Batch(tags={body["key"]: body.get("value", "")}))
        return {}

    def _delete_tag(self, body: Json) -> Json:
        self._tracking.delete_tag(run_id(body), body["key"])
        return {}

    def _log_inputs(self, body: Json) -> Json:
        self._tracking.add_inputs(run_id(body), list(body.get("datasets", ())))
        return {}

    def _history(self, body: Json) -> Json:
        most = body.get("max_results")
        token = body.get("page_token") or ""
        return self._tracking.history(run_id(body), body["metric_key"], None if most is None else int(most), token)

    def _log_async(self, body: Json) -> Json:
        """Keep a batch at once; the tracking id is for metrics only, as the plugin expects."""
        self._tracking.log(run_id(body), batch_from(body))
        if not body.get("metrics"):
            return {"batch_tracking_id": ""}
        identity = str(uuid.uuid4())
        self._async_batches.add(identity)
        return {"batch_tracking_id": identity}

    def _done(self, body: Json) -> Json:
        return {"is_complete": body.get("batch_tracking_id") in self._async_batches}


def mlflow_routes(scope: str, method: str, name: str, call: Call) -> list[Route]:
    """Return a call's routes, one for both versions of the data plane."""
    path = f"/mlflow/{{version:v[12]\\.0}}{scope}/api/2.0/mlflow/{name}"
    return [Route("tracking", name, method, path, as_json(call))]


def as_json(call: Call) -> Handler:
    """Return a handler that gives a call the body, or the query of a GET, and answers what it returns."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        try:
            return web.json_response(call(body))
        except KeyError as exc:
            raise bad_value(f"Missing value for required parameter {exc}.") from exc

    return handle


async def _body(request: web.Request) -> Json:
    values: Json = {}
    for key in request.query:
        values[key] = request.query.getall(key) if key in _LISTS else request.query[key]
    if request.method == "GET" or not request.can_read_body:
        return values
    try:
        given: Any = json.loads(await request.read())
    except ValueError as exc:
        raise bad_value("The body is no JSON.") from exc
    if not isinstance(given, dict):
        raise bad_value("The body is no JSON object.")
    return {**values, **given}


def with_token(answer: Json, following: str) -> Json:
    """Return an answer with the next page's token, which is absent on the last page."""
    return {**answer, "next_page_token": following} if following else answer
