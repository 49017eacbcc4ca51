"""``syncd run``: the daemon in the foreground."""

from __future__ import annotations

import argparse
import asyncio

from syncd.cli.exit_codes import ExitCode
from syncd.cli.logs import set_up_logs
from syncd.configuration import find_file, load
from syncd.runtime.daemon import run_daemon


def execute(arguments: argparse.Namespace) -> int:
    """Run the daemon until a signal."""
    configuration = load(find_file(arguments.config))
    set_up_logs(configuration.daemon.log_format, configuration.daemon.log_level)
    asyncio.run(run_daemon(configuration))
    return ExitCode.DONE
