"""Assembly of message sources and their intakes from settings. With ``assembly`` the only place that knows adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from syncd.configuration.message_settings import MessageOptions, WebhookSettings
from syncd.configuration.model import DaemonSettings, MessageSourceSettings
from syncd.core.messages.decode import Rules
from syncd.core.messages.topics import TopicPattern
from syncd.core.webhook_signature import key_of
from syncd.journal.inbox import IDENTITIES, IDENTITY_BYTES, Inbox, InboxSettings
from syncd.journal.journal import Journal
from syncd.journal.partials import Partials
from syncd.journal.refused_messages import RefusedMessages
from syncd.journal.spool import Spool
from syncd.runtime.broker_assembly import open_broker_return, open_broker_source
from syncd.runtime.giving_back import GivingBack, Sender
from syncd.runtime.message_intake import Announce, MessageIntake, Obey
from syncd.runtime.message_reading import MessageReader, Permits
from syncd.runtime.rests import Rests
from syncd.schemas.checking import check
from syncd.sources.messages import MessageSource
from syncd.sources.webhook import Credentials, WebhookSource

# Of journal_max_bytes, identities of messages take no more than one part in so many.
IDENTITIES_SHARE: Final = 8


@dataclass(frozen=True, slots=True)
class MessageOpening:
    """A source of messages and how it is opened; nothing is connected by that.

    ``open_return`` opens what sends into it.
    """

    settings: MessageOptions
    open: Callable[[], MessageSource]
    open_return: Callable[[], Sender | None] = lambda: None


@dataclass(frozen=True, slots=True)
class Names:
    """The sources and destinations of a configuration that commands may speak of."""

    stores: Sequence[str]
    destinations: Sequence[str]


def message_opening(settings: MessageSourceSettings) -> MessageOpening:
    """Return how a configured source of messages is opened."""
    if isinstance(settings, WebhookSettings):
        return MessageOpening(settings, lambda: open_webhook(settings))
    return MessageOpening(settings, lambda: open_broker_source(settings), lambda: open_broker_return(settings))


def open_webhook(settings: WebhookSettings) -> WebhookSource:
    """Return the source of a webhook, which an HTTP server hands requests to."""
    basic = None
    if settings.username is not None and settings.password is not None:
        basic = (settings.username, settings.password.reveal())
    credentials = Credentials(
        keys=[key_of(secret.reveal()) for secret in settings.secrets],
        token=settings.token.reveal() if settings.token else "",
        basic=basic,
    )
    return WebhookSource(settings.name, credentials=credentials, most_bytes=settings.max_message_bytes)


def message_intakes(
    openings: Sequence[tuple[int, MessageOpening]],
    *,
    journal: Journal,
    daemon: DaemonSettings,
    rests: Rests,
    names: Names,
    announce: Announce,
    obey: Obey,
) -> list[MessageIntake]:
    """Return the intakes of message sources, given by their ids in the journal."""
    spool = Spool(journal, Path(daemon.state_dir))
    spool.begin()
    every_name = [*names.stores, *(one.settings.name for _, one in openings)]
    state_dir, most_bytes = Path(daemon.state_dir), daemon.journal_max_bytes
    partials = {source_id: Partials(journal, state_dir, source_id, most_bytes=most_bytes) for source_id, _ in openings}
    return [
        MessageIntake(
            source=one.open(),
            reader=_reader(one.settings, spool, partials[source_id], sources=every_name, names=names),
            inbox=Inbox(journal, source_id, _inbox_settings(one.settings, daemon)),
            spool=spool,
            partials=partials[source_id],
            giving_back=_giving_back(one, partials[source_id]),
            refused=RefusedMessages(journal, source_id, broker_keeps=one.settings.broker_keeps_refused),
            rests=rests,
            journal_max_bytes=daemon.journal_max_bytes,
            announce=announce,
            obey=obey,
        )
        for source_id, one in openings
    ]


def _giving_back(opening: MessageOpening, partials: Partials) -> GivingBack | None:
    sender = opening.open_return()
    return None if sender is None else GivingBack(partials, sender)


def _reader(
    settings: MessageOptions, spool: Spool, partials: Partials, *, sources: Sequence[str], names: Names
) -> MessageReader:
    from syncd.schemas.regular_logs import REGULAR  # only who reads messages needs msgspec

    rules = Rules(
        source=settings.name,
        topic=TopicPattern(settings.topic_pattern),
        most_bytes=settings.max_message_bytes,
        check=check,
        regular=REGULAR,
    )
    permits = Permits(
        commands=settings.commands,
        roots=settings.roots,
        stores=names.stores,
        sources=sources,
        destinations=names.destinations,
        itself=settings.name,
        relay=settings.relay,
    )
    return MessageReader(rules, permits, spool, partials, shared=settings.is_shared)


def _inbox_settings(settings: MessageOptions, daemon: DaemonSettings) -> InboxSettings:
    room = daemon.journal_max_bytes // IDENTITIES_SHARE // IDENTITY_BYTES
    return InboxSettings(
        default_experiment=settings.experiment or settings.name,
        start_patience_ms=round(settings.start_patience_s * 1000),
        stale_after_ms=round(settings.stale_after_s * 1000) if settings.stale_after_s else None,
        end_stale_as=settings.end_stale_as,
        most_identities=max(1000, min(IDENTITIES, room)),
    )
