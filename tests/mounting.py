"""File systems of a test's own."""

from __future__ import annotations

import os
import subprocess

import pytest


def can_mount(*command: str) -> None:
    """Run a command that mounts; where it is refused, root has a failed test, and others may skip it."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        end = pytest.fail if os.geteuid() == 0 else pytest.skip
        end(f"not tested, since nothing can be mounted here: {done.stderr.strip()}")
