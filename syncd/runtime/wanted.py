"""Whether a destination wants a subject at all: its own filter, and the experiments that its source is asked for."""

from __future__ import annotations

from syncd.core.facts import ExperimentSeen, ModelSeen, RunSeen
from syncd.journal import subjects
from syncd.journal.subjects import Subject
from syncd.runtime.channel import Supply


async def is_wanted(channel: Supply, subject: Subject) -> bool:
    """Return whether the destination takes the subject; one that its source has not described yet counts as taken."""
    match subject.head:
        case ExperimentSeen(name=name):
            return channel.takes_experiment(subject.source_id, name)
        case RunSeen(name=name):
            return await _is_experiment_wanted(channel, subject) and channel.filter.takes_run(name, subject.tags)
        case ModelSeen():
            return await _is_experiment_wanted(channel, subject)
        case None:
            return True


async def _is_experiment_wanted(channel: Supply, subject: Subject) -> bool:
    if subject.experiment_id is None:
        return True
    experiment = (await channel.journal.do(subjects.subject, subject.experiment_id)).head
    return not isinstance(experiment, ExperimentSeen) or channel.takes_experiment(subject.source_id, experiment.name)
