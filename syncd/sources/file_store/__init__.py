"""syncd's own reader of MLflow FileStore trees (the source kind ``mlruns``)."""

from syncd.sources.file_store.source import FileStoreSource

__all__ = ["FileStoreSource"]
