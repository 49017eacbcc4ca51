"""The one tree of errors.

Every error says what was being done, to what, and what the user can do about it. Adapters translate library
errors at their edge (``raise ... from exc``); nothing else raises a library's error across a wall.
"""

from __future__ import annotations


class SyncdError(Exception):
    """Base of all errors that syncd raises on purpose.

    ``doing`` is a phrase such as "reading meta.yaml", ``target`` names the thing it was done to, ``hint`` says
    what the user can do (may be empty).
    """

    def __init__(self, message: str, *, doing: str = "", target: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.doing = doing
        self.target = target
        self.hint = hint

    def __str__(self) -> str:
        where = " ".join(part for part in (self.doing, self.target) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(SyncdError):
    """The configuration or a command line value is wrong; exit code 78."""


class JournalError(SyncdError):
    """The journal cannot be opened, read or written."""


class JournalLocked(JournalError):
    """Another process holds the state directory; ``pid`` is its process id (0 if unknown)."""

    def __init__(self, message: str, *, pid: int, target: str = "") -> None:
        super().__init__(
            message, doing="opening the journal in", target=target, hint="stop that process or use another state_dir"
        )
        self.pid = pid


class JournalFull(JournalError):
    """No space is left for the journal; intake must pause, sending may go on."""


class JournalCorrupt(JournalError):
    """The journal's file is damaged."""


class JournalNewer(JournalError):
    """A newer syncd wrote the journal; ``replaceable`` says that the sources still have all that it holds."""

    def __init__(self, message: str, *, replaceable: bool, target: str) -> None:
        super().__init__(
            message,
            doing="opening",
            target=target,
            hint="run the newer syncd: messages that it has taken may be in this file alone",
        )
        self.replaceable = replaceable


class SourceError(SyncdError):
    """A local store cannot be read at all (not merely one file of it)."""


class SourceNotReady(SourceError):
    """The store is in the middle of something (half-created, hot journal, locked); try again later."""


class MessageRefused(SyncdError):
    """A message is not taken: it is dead-lettered with ``reason``, one word for machines, and the error's text.

    ``TooLarge``, ``Malformed``, ``NotAllowed`` (its source may not say that), ``NotSupported`` (not in this version).
    """

    def __init__(self, message: str, *, reason: str = "Malformed", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class DestinationError(SyncdError):
    """Base of what can go wrong at a destination."""


class Transient(DestinationError):
    """May succeed later: outage, throttling, time-out before the request was taken.

    ``retry_after_s`` is the server's wish in seconds or None; ``throttled`` is true for 429 and 503 with
    Retry-After; ``server_fault`` is true for a 500, which a poison item may also cause.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        throttled: bool = False,
        server_fault: bool = False,
        doing: str = "",
        target: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, doing=doing, target=target, hint=hint)
        self.retry_after_s = retry_after_s
        self.throttled = throttled
        self.server_fault = server_fault


class OutcomeUnknown(Transient):
    """The request was sent but no answer came: it may have been applied."""


class Rejected(DestinationError):
    """The server refuses this item for good (4xx); to be dead-lettered with the server's words.

    ``code`` is the server's error code (for example ``INVALID_PARAMETER_VALUE``), ``status`` the HTTP status.
    """

    def __init__(
        self, message: str, *, code: str = "", status: int = 0, doing: str = "", target: str = "", hint: str = ""
    ) -> None:
        super().__init__(message, doing=doing, target=target, hint=hint)
        self.code = code
        self.status = status


class OverLimit(Rejected):
    """More, or longer, than the destination takes.

    ``limit_name`` is the field of ``syncd.core.limits.Limits`` that the server's ``limit`` is of, "" if it is of none.
    """

    def __init__(
        self,
        message: str,
        *,
        limit_name: str,
        limit: int,
        code: str = "",
        status: int = 0,
        doing: str = "",
        target: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, code=code, status=status, doing=doing, target=target, hint=hint)
        self.limit_name = limit_name
        self.limit = limit


class SubjectGone(Rejected):
    """The run, model or experiment itself is deleted or missing on the destination; no item of it can be sent."""


class AuthFailed(DestinationError):
    """401 or 403 after the token was refreshed: park the destination, try again slowly, drop nothing."""


class ArtifactChanged(SyncdError):
    """The file changed while it was read; send it again when it is stable."""


class ArtifactMissing(SyncdError):
    """The file is gone, unreadable, or not a regular file inside its root."""


class SinkGone(DestinationError):
    """The receiver wants no more events, ever (410): send none until someone has changed that."""


class NameNotHeld(Rejected):
    """The destination cannot keep an artifact under that name; it goes to the overflow under another."""
