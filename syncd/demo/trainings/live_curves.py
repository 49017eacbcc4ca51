"""Train a linear classifier for some seconds and log each epoch: into a FileStore, ``mlruns`` in this directory.

The loss on the images held back, and the accuracy, are logged as each epoch ends. A second run fails half-way.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import mlflow
from sklearn.linear_model import SGDClassifier  # type: ignore[import-untyped]
from sklearn.metrics import log_loss  # type: ignore[import-untyped]

from syncd.demo.trainings import LIVE_CURVES, digits, tell

EPOCHS = 25
EPOCH_S = 0.5  # an epoch takes milliseconds; real ones take their time
FAILS_AFTER = 3


def main() -> None:
    """Make both runs."""
    mlflow.set_tracking_uri("mlruns")
    mlflow.set_experiment(LIVE_CURVES)
    train("sgd", learning_rate=0.001, epochs=EPOCHS)
    with suppress(FloatingPointError):
        train("sgd, diverges", learning_rate=1e6, epochs=EPOCHS, most_loss=10.0)


def train(name: str, *, learning_rate: float, epochs: int, most_loss: float = float("inf")) -> None:
    """Train and log one run.

    Raises:
        FloatingPointError: the loss rose above ``most_loss``.
    """
    train_images, test_images, train_labels, test_labels = digits.load()
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=learning_rate, random_state=0)
    with mlflow.start_run(run_name=name) as run:
        tell(run.info.run_id)
        mlflow.log_params({"learning_rate": learning_rate, "epochs": epochs})
        mlflow.set_tag("mlflow.note.content", "One point per epoch, logged while the training goes on.")
        for epoch in range(epochs):
            model.partial_fit(train_images, train_labels, classes=digits.CLASSES)
            loss = log_loss(test_labels, model.predict_proba(test_images))
            mlflow.log_metrics({"loss": loss, "accuracy": model.score(test_images, test_labels)}, step=epoch)
            if epoch >= FAILS_AFTER and loss > most_loss:
                raise FloatingPointError(f"the loss is {loss}")
            time.sleep(EPOCH_S)
        mlflow.log_text(confusion(model, test_images, test_labels), "confusion.csv")
        mlflow.log_text(json.dumps(model.coef_.tolist()), "weights/coefficients.json")


def confusion(model: Any, images: Any, labels: Any) -> str:
    """Return how often which digit was taken for which, as CSV."""
    counts = Counter(zip(labels.tolist(), model.predict(images).tolist(), strict=True))
    lines = [",".join(str(counts[actual, said]) for said in digits.CLASSES) for actual in digits.CLASSES]
    return "\n".join([",".join(f"said {said}" for said in digits.CLASSES), *lines, ""])


if __name__ == "__main__":
    main()
