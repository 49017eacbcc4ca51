"""``syncd demo``: the whole loop on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from syncd.demo.loop import run_demo

FOLDER = Path("demo-data")


def execute(arguments: argparse.Namespace) -> int:
    """Run the demo; on a terminal it stays up until Ctrl-C."""
    return run_demo(FOLDER, stay=sys.stdout.isatty())
