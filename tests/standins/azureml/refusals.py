"""How the services refuse: one exception, worded by each API in its own way.

The shapes are copied from error messages that users published: tracking from mlflow issues 10694 and 11462, run history
from "Resource Conflict" reports, storage and ARM from their REST references (read 2026-11).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Literal
from xml.sax.saxutils import escape

from aiohttp import web

Family = Literal["tracking", "history", "arm", "blob", "identity", "control"]


class Refused(Exception):
    """A request the service does not carry out.

    ``status`` is HTTP's, ``code`` the service's own word, ``headers`` go into the answer as they are.
    """

    def __init__(self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def over_limit(field: str, limit: int, size: int) -> Refused:
    """Return the refusal of a value that is larger than the service takes."""
    message = (
        f"A field of the entity is over the size limit. FieldName={field}, Limit={limit}, Size={size}. "
        "See https://aka.ms/azure-machine-learning-limits for service limits documentation."
    )
    return Refused(400, "INVALID_PARAMETER_VALUE", message)


def bad_value(message: str) -> Refused:
    """Return the refusal of a value the service cannot use."""
    return Refused(400, "INVALID_PARAMETER_VALUE", message)


def not_there(what: str) -> Refused:
    """Return the refusal of a question about something that does not exist."""
    return Refused(404, "RESOURCE_DOES_NOT_EXIST", f"{what} does not exist.")


def answer_to(refused: Refused, family: Family) -> web.Response:
    """Return the answer that this family of APIs gives to a refusal."""
    if family == "blob":
        return _storage_answer(refused)
    if family == "tracking":
        return web.json_response(_tracking_body(refused), status=refused.status, headers=refused.headers)
    error = {"code": refused.code, "message": refused.message}
    fits = refused.message.isascii() and refused.message.isprintable()
    reason = refused.message if family == "history" and fits else None  # as ultralytics issue 3223 shows it
    return web.json_response({"error": error}, status=refused.status, reason=reason, headers=refused.headers)


def _tracking_body(refused: Refused) -> dict[str, object]:
    inner = "ValidationError" if "size limit" in refused.message else "UserError"
    return {
        "Error": {
            "Code": inner,
            "Severity": None,
            "Message": refused.message,
            "MessageFormat": None,
            "MessageParameters": None,
            "ReferenceCode": None,
            "DetailsUri": None,
            "Target": None,
            "Details": [],
            "InnerError": None,
            "DebugInfo": None,
            "AdditionalInfo": None,
        },
        "Correlation": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]},
        "Environment": "westeurope",
        "Location": "westeurope",
        "Time": datetime.now(UTC).isoformat(),
        "ComponentName": "mlflow",
        "statusCode": refused.status,
        "error_code": refused.code,
    }


def _storage_answer(refused: Refused) -> web.Response:
    body = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{escape(refused.code)}</Code><Message>{escape(refused.message)}</Message></Error>"
    )
    headers = {**refused.headers, "x-ms-error-code": refused.code, "x-ms-request-id": str(uuid.uuid4())}
    return web.Response(status=refused.status, text=body, content_type="application/xml", headers=headers)
