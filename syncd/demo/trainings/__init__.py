"""The demo's trainings. Each is a program of its own that knows MLflow and scikit-learn, and nothing of syncd."""

LIVE_CURVES = "demo: live curves"  # experiment names
GRID_SEARCH = "demo: grid search"
_RUN_MARK = "demo made run "


def tell(run_id: str) -> None:
    """Print the id of a run that was made, for the demo to wait for."""
    print(_RUN_MARK + run_id, flush=True)


def runs_told(output: str) -> set[str]:
    """Return the ids that ``tell`` printed into that output."""
    return {line.removeprefix(_RUN_MARK) for line in output.splitlines() if line.startswith(_RUN_MARK)}
