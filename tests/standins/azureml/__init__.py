"""A look-alike of an Azure Machine Learning workspace on https: tokens, ARM, tracking, registry, artifacts, storage.

    with RunningWorkspace(tmp_path) as workspace:
        environment = {**os.environ, **workspace.place.client_environment()}     # for an unmodified azureml-mlflow
        workspace.state.faults.throttle_next(2, kind="runs/log-batch")
        ...
        run = workspace.state.tracking.runs[run_id]; run.series["loss"], run.params, run.tags
        workspace.state.artifacts.bytes_of(Shelf.of_run(run_id), "model/MLmodel")
        workspace.state.log.counts()["runs/log-batch"]

Nothing of it was compared with a real workspace. What is known from published messages, and what is assumed, is said
in ``limits`` (Limits, Habits) and ``refusals``.
"""

from tests.standins.azureml.artifacts import Shelf
from tests.standins.azureml.faults import Fault
from tests.standins.azureml.limits import Habits, Limits
from tests.standins.azureml.place import Place
from tests.standins.azureml.server import RunningWorkspace, WorkspaceProcess

__all__ = ["Fault", "Habits", "Limits", "Place", "RunningWorkspace", "Shelf", "WorkspaceProcess"]
