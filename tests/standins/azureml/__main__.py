"""``python -m tests.standins.azureml --folder F --port 0``: a workspace until SIGTERM."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.standins.azureml.server import serve_until_signalled

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--folder", type=Path, required=True)
parser.add_argument("--port", type=int, default=0)
given = parser.parse_args()
serve_until_signalled(given.folder, given.port)
