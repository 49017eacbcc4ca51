"""The source ``mlflow-db``: MLflow's SQLite store, read without being touched."""

from syncd.sources.mlflow_db.location import database_path
from syncd.sources.mlflow_db.source import MlflowDbSource

__all__ = ["MlflowDbSource", "database_path"]
