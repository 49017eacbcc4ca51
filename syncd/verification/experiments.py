"""Comparing experiments: each by its name, with the tags of all stores that have one of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from syncd.core.compare.findings import Difference
from syncd.core.compare.values import compare_experiment_tags
from syncd.core.facts import ExperimentSeen
from syncd.core.limits import Limits
from syncd.core.names import held_name
from syncd.destinations.base import RemoteExperiment
from syncd.verification.report import Findings
from syncd.verification.spool import Spooled


def compare_experiment(
    group: Sequence[Spooled], held: Mapping[str, RemoteExperiment], limits: Limits, findings: Findings
) -> None:
    """Compare the experiments of one name with the destination's.

    Args:
        group: those of the sources, at least one.
        held: all of the destination, by name.
        limits: the server's.
        findings: takes what is found.
    """
    heads = [spooled.head for spooled in group if isinstance(spooled.head, ExperimentSeen)]
    name = heads[0].name
    remote = held.get(held_name(name, limits.experiment_name_length))
    if remote is None:
        findings.differences.append(Difference("missing", "experiment", "", name))
        return
    findings.found(remote.id)
    findings.take(
        compare_experiment_tags(
            [head.tags for head in heads],
            remote.tags,
            key_length=limits.tag_key_length,
            value_length=limits.experiment_tag_value_length,
        )
    )
