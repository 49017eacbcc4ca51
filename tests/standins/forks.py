"""Processes forked from one that has imported what they need: MLflow alone takes seconds of a core to import."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pytest", "tests.standins.mlflow_app", "tests.faults.failpoints"])


class Forked:
    """A process that runs ``module:function`` in a process group of its own; used like a ``subprocess.Popen``.

    The function is imported in that process only. ``environment`` is added to this process's; what is written to
    standard output and error is appended to ``log``.
    """

    def __init__(
        self,
        place: str,
        *arguments: Any,
        cwd: Path | None = None,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        given = (place, arguments, cwd, log, {**os.environ, **(environment or {})})
        self._process = _context.Process(target=_run, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, that of a signal negative; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return code

    def kill(self) -> None:
        self._process.kill()


def _run(
    place: str, arguments: tuple[Any, ...], cwd: Path | None, log: Path | None, environment: Mapping[str, str]
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    if log is not None:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
    module, _, name = place.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)
