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


async def may_be_wanted_soon(channel: Supply, subject: Subject) -> bool:
    """Return whether only the name or tags of a run that comes in messages are not such as the destination wants.

    They may be told in the next message; and what is let go of a message cannot be read again.
    """
    told_once = subject.source_id in channel.told_once
    return told_once and isinstance(subject.head, RunSeen) and await _is_experiment_wanted(channel, subject)


async def _is_experiment_wanted(channel: Supply, subject: Subject) -> bool:
    if subject.experiment_id is None:
        return True
    experiment = (await channel.journal.do(subjects.subject, subject.experiment_id)).head
    return not isinstance(experiment, ExperimentSeen) or channel.takes_experiment(subject.source_id, experiment.name)
