"""The exit codes that scripts and units rely on."""

from __future__ import annotations

from enum import IntEnum

from syncd.errors import AuthFailed, ConfigError, JournalNewer, SyncdError, Transient


class ExitCode(IntEnum):
    """What the process ends with (docs/json.md and the README list them)."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2  # argparse's own
    DEAD_LETTERS = 3
    DIFFERENCES = 4
    UNREACHABLE = 75  # EX_TEMPFAIL: later may do
    CONFIGURATION = 78  # EX_CONFIG: systemd does not restart
    INTERRUPTED = 130


def exit_code_of(error: SyncdError) -> ExitCode:
    """Return the code of an error that ended a command."""
    if isinstance(error, ConfigError | JournalNewer):  # to start again changes nothing
        return ExitCode.CONFIGURATION
    if isinstance(error, Transient | AuthFailed):
        return ExitCode.UNREACHABLE
    return ExitCode.UNEXPECTED
