"""Where the demo keeps everything: one folder, emptied at each start, in which nothing else may lie."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from syncd.errors import ConfigError, SyncdError
from syncd.journal.state_lock import LOCK_NAME, StateLock

_MARK = "made-by-syncd-demo.txt"
_MARK_TEXT = "Everything in this folder was made by `syncd demo`, which empties it when it is started again.\n"

_CONFIGURATION = """\
# Written by `syncd demo`. Paths are relative to this file; docs/configuration.md has every key.

[daemon]
state_dir = "state"
shutdown_grace_s = 10
log_format = "plain"

[[sources]]
name = "files"
kind = "mlruns"
path = "mlruns"

[[sources]]
name = "database"
kind = "mlflow-db"
uri = "sqlite:///database/mlflow.db"

[[destinations]]
name = "workspace"
uri = "{url}"
"""


class DemoFailed(SyncdError):
    """Something that the demo started did not do its part."""


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """The paths below the demo's folder."""

    root: Path

    @property
    def file_store(self) -> Path:
        """The FileStore that one training writes."""
        return self.root / "mlruns"

    @property
    def database(self) -> Path:
        """The SQLite store that the other training writes, with its artifacts beside it."""
        return self.root / "database" / "mlflow.db"

    @property
    def server(self) -> Path:
        """What the tracking server keeps."""
        return self.root / "server"

    @property
    def configuration(self) -> Path:
        """The daemon's configuration."""
        return self.root / "syncd.toml"

    @property
    def state(self) -> Path:
        """The daemon's journal."""
        return self.root / "state"

    def log(self, name: str) -> Path:
        """Return the file that takes the output of the process of that name."""
        return self.root / "logs" / f"{name}.log"

    def write_configuration(self, url: str) -> None:
        """Write the daemon's configuration: both stores, and the server at ``url``."""
        self.configuration.write_text(_CONFIGURATION.format(url=url))


def prepare(root: Path) -> tuple[DemoFolder, StateLock]:
    """Make the folder, or empty one that an earlier demo made; return it, locked for this process.

    Raises:
        ConfigError: something that is not the demo's lies there.
        JournalLocked: another demo uses it now.
    """
    if root.exists() and not (root / _MARK).is_file() and not _is_empty(root):
        raise ConfigError(
            "it is there, and was not made by a demo",
            doing="preparing",
            target=str(root),
            hint="move it away, or start the demo in another directory",
        )
    root.mkdir(exist_ok=True)
    (root / _MARK).write_text(_MARK_TEXT)
    lock = StateLock(root)
    lock.acquire()
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (_MARK, LOCK_NAME):
            path.unlink()
    folder = DemoFolder(root)
    for path in (folder.file_store, folder.database.parent, folder.server, folder.root / "logs"):
        path.mkdir()
    return folder, lock


def _is_empty(root: Path) -> bool:
    return root.is_dir() and not any(root.iterdir())
