"""MLflow's own code in processes of the fork server (forks.py), which imports this and hands it on to each."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tests.standins.mlflow_server import QUIET

os.environ.update(QUIET)

# MLflow asks when it is imported whether it is in a server, and takes that from uvicorn's being there.
import uvicorn.main  # noqa: I001

import mlflow.cli
import mlflow.server.fastapi_app
from mlflow.server.handlers import initialize_backend_stores


def command(arguments: list[str]) -> NoReturn:
    """Run the command ``mlflow`` with these arguments.

    ``mlflow server`` starts uvicorn as a second process, which imports everything anew. Here uvicorn runs in the
    command's process; all else is MLflow's own.
    """
    mlflow.server._exec_cmd = _uvicorn_here
    mlflow.cli.cli(arguments)
    raise SystemExit


def _uvicorn_here(command: list[str], *, extra_env: Mapping[str, str], **_: object) -> NoReturn:
    os.environ.update(extra_env)
    uvicorn.main.main(command[command.index("uvicorn") + 1 :])
    raise SystemExit


def make_database(path: Path) -> None:
    """Make what a server makes of a database at its first start."""
    initialize_backend_stores(f"sqlite:///{path}", None, "mlflow-artifacts:/")


def execute(program: str, arguments: list[str]) -> None:
    """Run the text of a program."""
    sys.argv[1:] = arguments
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
