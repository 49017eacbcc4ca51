"""Logs on stderr: plain lines for people, JSON for machines."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def set_up_logs(log_format: str, level: str) -> None:
    """Send logs of at least ``level`` to stderr as "json" or "plain"; "auto" is plain on a terminal, else JSON."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str) if as_json else _plain,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _plain(_logger: Any, _method: str, event: Any) -> str:
    """Return ``time LEVEL event key=value ...``."""
    time, level, text = event.pop("timestamp"), event.pop("level").upper(), event.pop("event")
    trace = event.pop("exception", "")
    pairs = " ".join(f"{key}={value}" for key, value in event.items())
    return f"{time} {level:7} {text}" + (f"  {pairs}" if pairs else "") + (f"\n{trace}" if trace else "")
