"""Which error ended a group of tasks."""

from __future__ import annotations

from syncd.errors import SyncdError


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended a task group: one that syncd raised on purpose, if there is one."""
    leaves = [first_cause(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, SyncdError)), leaves[0])
