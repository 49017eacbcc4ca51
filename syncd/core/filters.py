"""What a destination wants: experiments, run names, tags, artifacts, by shell-style patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty means everything. A run passes if all that is set passes; ``exclude`` wins over ``include``."""

    experiments: tuple[str, ...] = ()
    exclude_experiments: tuple[str, ...] = ()
    run_names: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    exclude_artifacts: tuple[str, ...] = ()

    def takes_experiment(self, name: str) -> bool:
        """Return whether runs of the experiment are wanted."""
        return _passes(name, self.experiments, self.exclude_experiments)

    def takes_run(self, name: str, tags: Mapping[str, str]) -> bool:
        """Return whether the run is wanted (its experiment aside); ``tags`` are all of its tags."""
        wanted = not self.run_names or any(fnmatchcase(name, pattern) for pattern in self.run_names)
        return wanted and all(fnmatchcase(tags.get(key, ""), pattern) for key, pattern in self.tags.items())

    def takes_artifact(self, path: str) -> bool:
        """Return whether the artifact of that path is wanted."""
        return _passes(path, self.artifacts, self.exclude_artifacts)


def _passes(name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in exclude):
        return False
    return not include or any(fnmatchcase(name, pattern) for pattern in include)
