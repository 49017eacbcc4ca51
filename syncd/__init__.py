"""syncd: brings local MLflow stores to a tracking server, live, whole and once."""

__version__ = "0.1.0"
