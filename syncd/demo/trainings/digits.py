"""The data of both trainings."""

from __future__ import annotations

from typing import Any

from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

CLASSES = range(10)


def load() -> tuple[Any, Any, Any, Any]:
    """Return scikit-learn's 1,797 images of digits: images to train and to test with, then the labels of both."""
    images, labels = load_digits(return_X_y=True)
    return tuple(train_test_split(images / 16, labels, test_size=0.3, random_state=0))
