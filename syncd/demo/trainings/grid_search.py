"""Search a small grid and log the best model: into SQLite, ``mlflow.db`` in this directory, as MLflow does by default.

The search is a parent run, each candidate a child. The parent gets the dataset, a report and the model.
"""

from __future__ import annotations

import warnings
from typing import Any

import mlflow
import mlflow.sklearn
from mlflow.data.numpy_dataset import from_numpy
from mlflow.models import infer_signature
from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from syncd.demo.trainings import GRID_SEARCH, digits, tell

GRID = [{"C": c, "max_iter": max_iter} for c in (0.01, 0.1, 1.0) for max_iter in (20, 100)]


def main() -> None:
    """Make the parent and its children."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment(GRID_SEARCH)
    train_images, test_images, train_labels, test_labels = digits.load()
    with mlflow.start_run(run_name="search") as run:
        tell(run.info.run_id)
        mlflow.set_tag("candidate", "true")
        mlflow.log_input(from_numpy(train_images, targets=train_labels, name="digits"), "training")
        report = ["C,max_iter,accuracy"]
        best: tuple[float, Any] = (-1.0, None)
        for params in GRID:
            model, accuracy = candidate(params, (train_images, train_labels), (test_images, test_labels))
            report.append(f"{params['C']},{params['max_iter']},{accuracy}")
            best = max(best, (accuracy, model), key=lambda pair: pair[0])
        mlflow.log_metric("best_accuracy", best[0])
        mlflow.log_text("\n".join(report) + "\n", "report.csv")
        log_model(best[1], test_images)


def candidate(params: dict[str, Any], training: tuple[Any, Any], test: tuple[Any, Any]) -> tuple[Any, float]:
    """Train one candidate as a child run; return the model and its accuracy."""
    with mlflow.start_run(run_name=f"C={params['C']}, max_iter={params['max_iter']}", nested=True) as run:
        tell(run.info.run_id)
        mlflow.log_params(params)
        model = LogisticRegression(**params).fit(*training)
        accuracy = float(model.score(*test))
        mlflow.log_metric("accuracy", accuracy)
        return model, accuracy


def log_model(model: Any, images: Any) -> None:
    """Log the model with its signature and an example."""
    mlflow.sklearn.log_model(
        model,
        name="digits-classifier",
        signature=infer_signature(images, model.predict(images)),
        input_example=images[:2],
        pip_requirements=["scikit-learn"],  # given, because finding them out takes longer than the training
    )


if __name__ == "__main__":
    main()
