"""Webhooks: whose signature is taken, what is answered and when; the signers are the real ones."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime

import mlflow.webhooks.delivery
import pytest
import structlog
from standardwebhooks.webhooks import Webhook

from syncd.core.webhook_signature import WINDOW_S, key_of, sign
from syncd.errors import MessageRefused
from syncd.sources.webhook import WARN_AGAIN_S, Credentials, HookAnswer, HookRequest, WebhookSource

NOW_S = 1_800_000_000.5
SECRET = "whsec_" + base64.b64encode(b"thirty-two bytes of a good secret").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"the secret that is being replaced").decode()
BODY = '{"specversion":"1.0"}'


def source(credentials: Credentials, *, most_bytes: int = 1000, patience_s: float = 60.0) -> WebhookSource:
    return WebhookSource(
        "hook", credentials=credentials, most_bytes=most_bytes, patience_s=patience_s, wall_s=lambda: NOW_S
    )


def request(
    headers: Mapping[str, str] | None = None,
    *,
    body: str = BODY,
    query: Mapping[str, str] | None = None,
    method: str = "POST",
) -> HookRequest:
    lowered = {name.lower(): value for name, value in (headers or {}).items()}
    return HookRequest(method=method, headers=lowered, query=query or {}, body=body.encode())


def standard_headers(
    *, secret: str = SECRET, message_id: str = "msg_1", at_s: float = NOW_S, body: str = BODY
) -> dict[str, str]:
    signature = Webhook(secret).sign(message_id, datetime.fromtimestamp(at_s, UTC), body)
    return {"webhook-id": message_id, "webhook-timestamp": str(int(at_s)), "webhook-signature": signature}


def mlflow_headers(secret: str, *, at_s: float = NOW_S) -> dict[str, str]:
    signature = mlflow.webhooks.delivery._generate_hmac_signature(secret, "d-1", str(int(at_s)), BODY)
    return {
        "X-MLflow-Delivery-Id": "d-1",
        "X-MLflow-Timestamp": str(int(at_s)),
        "X-MLflow-Signature": signature,
    }


async def answered(hook: WebhookSource, asked: HookRequest) -> HookAnswer:
    """Have a request answered by an intake that takes all it gets."""
    answering = hook.answer(asked)
    receiving = asyncio.create_task(hook.receive(most=10, most_bytes=10_000))
    await asyncio.wait((answering, receiving), return_when=asyncio.FIRST_COMPLETED)
    if receiving.done():
        await hook.complete(receiving.result())
    receiving.cancel()
    return await answering


KEYS = Credentials(keys=(key_of(SECRET), key_of(OLD_SECRET), key_of("mlflow secret")))


@pytest.mark.parametrize(
    "headers",
    [
        standard_headers(),
        standard_headers(secret=OLD_SECRET),
        mlflow_headers("mlflow secret"),
        standard_headers(at_s=NOW_S - WINDOW_S + 2),
        standard_headers(at_s=NOW_S + WINDOW_S - 2),
        {**standard_headers(), "webhook-signature": "v1,AAAA " + standard_headers()["webhook-signature"]},
    ],
)
async def test_signed_requests_are_taken(headers: dict[str, str]) -> None:
    hook = source(KEYS)
    assert (await answered(hook, request(headers))).status == 200
    assert (hook.counts.taken, hook.counts.unauthorized) == (1, 0)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request(standard_headers(), body=BODY + " "), "does not match"),
        (request(standard_headers(secret="whsec_" + base64.b64encode(b"another").decode())), "does not match"),
        (request({**standard_headers(), "webhook-id": "msg_2"}), "does not match"),
        (request({**standard_headers(), "webhook-timestamp": str(int(NOW_S) + 1)}), "does not match"),
        (request({**standard_headers(), "webhook-timestamp": "1" * 5000}), "not a number"),
        (request({**standard_headers(), "webhook-timestamp": "²"}), "not a number"),
        (request({**standard_headers(), "webhook-signature": "v1,\udcff"}), "does not match"),
        (request({**standard_headers(), "webhook-id": ""}), "no id"),
        (request(standard_headers(at_s=NOW_S - WINDOW_S - 2)), "older or younger"),
        (request(standard_headers(at_s=NOW_S + WINDOW_S + 2)), "older or younger"),
        (request(mlflow_headers("guess")), "does not match"),
        (request(), "does not prove"),
        (request(query={"token": ""}), "does not prove"),
        (request({"authorization": "Basic " + base64.b64encode(b":").decode()}), "does not prove"),
    ],
)
async def test_other_requests_are_not_read(asked: HookRequest, why: str) -> None:
    hook = source(KEYS)
    answer = await answered(hook, asked)
    assert answer.status == 401
    assert why in answer.content["error"]
    assert (hook.counts.taken, hook.counts.unauthorized) == (0, 1)


async def test_what_is_not_believed_is_logged_now_and_then() -> None:
    now = [NOW_S]
    hook = WebhookSource("hook", credentials=KEYS, most_bytes=1000, wall_s=lambda: now[0])
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            await answered(hook, request())
        now[0] += WARN_AGAIN_S
        await answered(hook, request())
    assert [(one["source"], one["count"]) for one in logged] == [("hook", 1), ("hook", 4)]
    assert "does not prove" in logged[0]["reason"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(query={"token": "long and secret"}), 200),
        (request(query={"token": "long and secres"}), 401),
        (request({"authorization": "Basic " + base64.b64encode("us:pä:ss".encode()).decode()}), 200),
        (request({"authorization": "basic " + base64.b64encode(b"us:pass").decode()}), 401),
        (request({"authorization": "Basic !!"}), 401),
        (request({"authorization": "Bearer x"}), 401),
    ],
)
async def test_senders_that_cannot_sign_have_a_secret_url_or_a_password(asked: HookRequest, status: int) -> None:
    hook = source(Credentials(token="long and secret", basic=("us", "pä:ss")))
    assert (await answered(hook, asked)).status == status


async def test_a_password_is_not_kept_with_the_message() -> None:
    hook = source(Credentials(basic=("us", "pass")))
    password = "Basic " + base64.b64encode(b"us:pass").decode()
    hook.answer(request({"authorization": password, "ce-id": "1", "cookie": "c"}))
    [message] = await hook.receive(most=10, most_bytes=10_000)
    assert message.headers == {"ce-id": "1"}


async def test_2xx_is_said_after_the_message_was_completed() -> None:
    hook = source(KEYS)
    answering = hook.answer(request(standard_headers()))
    [message] = await hook.receive(most=10, most_bytes=10_000)
    assert (message.id, message.body, message.address) == ("msg_1", BODY.encode(), "/hooks/hook")
    assert not answering.done()
    await hook.complete([message])
    assert (await answering).status == 200


@pytest.mark.parametrize(
    ("reason", "status"), [("Malformed", 400), ("NotAllowed", 403), ("NotSupported", 501), ("TooLarge", 413)]
)
async def test_what_is_refused_is_answered_with_the_reason(reason: str, status: int) -> None:
    hook = source(KEYS)
    answering = hook.answer(request(standard_headers()))
    [message] = await hook.receive(most=10, most_bytes=10_000)
    await hook.refuse([(message, MessageRefused("/data/step: expected a whole number", reason=reason))])
    answer = await answering
    assert (answer.status, answer.content) == (status, {"error": "/data/step: expected a whole number"})


async def test_what_nobody_takes_is_put_off_and_withdrawn() -> None:
    hook = source(KEYS, patience_s=0.01)
    answer = await hook.answer(request(standard_headers()))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    receiving = asyncio.create_task(hook.receive(most=1, most_bytes=1))
    await asyncio.sleep(0)
    assert not receiving.done()
    receiving.cancel()


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncd.sources.webhook.MOST_WAITING", 2)
    hook = source(KEYS)
    waiting = [hook.answer(request(standard_headers())) for _ in range(2)]
    assert (await hook.answer(request(standard_headers()))).status == 503
    await hook.close()
    assert [(await one).status for one in waiting] == [503, 503]


async def test_a_request_that_is_too_large_is_not_kept() -> None:
    hook = source(KEYS, most_bytes=10)
    assert (await hook.answer(request(standard_headers()))).status == 413


async def test_messages_are_given_out_up_to_a_number_and_a_size() -> None:
    hook = source(KEYS)
    waiting = [hook.answer(request(standard_headers())) for _ in range(5)]
    first = await hook.receive(most=2, most_bytes=10_000)
    assert len(first) == 2
    await hook.complete(first)
    assert len(await hook.receive(most=10, most_bytes=len(BODY) + 1)) == 2
    assert [one.done() for one in waiting] == [True, True, False, False, False]


async def test_who_comes_while_others_are_committed_is_committed_together() -> None:
    hook = source(KEYS)
    hook.answer(request(standard_headers()))
    [first] = await hook.receive(most=10, most_bytes=10_000)
    for _ in range(3):
        hook.answer(request(standard_headers()))
    receiving = asyncio.create_task(hook.receive(most=10, most_bytes=10_000))
    await asyncio.wait([receiving], timeout=0.01)
    assert not receiving.done()
    await hook.refuse([(first, MessageRefused(""))])
    assert len(await receiving) == 3


async def test_what_is_not_settled_in_time_is_put_off_and_may_be_settled_later() -> None:
    hook = source(KEYS, patience_s=0.02)
    first, second = hook.answer(request(standard_headers())), hook.answer(request(standard_headers()))
    taken = await hook.receive(most=1, most_bytes=10_000)
    assert [(await one).status for one in (first, second)] == [503, 503]
    await hook.complete(taken)
    third = hook.answer(request(standard_headers()))
    [message] = await hook.receive(most=10, most_bytes=10_000)
    await hook.complete([message])
    assert (await third).status == 200, "the second was withdrawn"


async def test_a_message_is_taken_though_its_sender_has_gone() -> None:
    hook = source(KEYS)
    hook.answer(request(standard_headers())).cancel()
    [message] = await hook.receive(most=10, most_bytes=10_000)
    await hook.complete([message])
    assert hook.counts.taken == 1


async def test_what_is_turned_away_before_its_body_is_read_is_counted() -> None:
    hook = source(KEYS)
    for status in (413, 408, 503):
        hook.not_read(status)
    assert (hook.counts.refused, hook.counts.put_off) == (2, 1)


async def test_event_grid_is_told_that_it_may_send() -> None:
    hook = source(Credentials(token="t"))
    event = [{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "512d38b6"}}]
    headers = {"aeg-event-type": "SubscriptionValidation"}
    answer = await hook.answer(request(headers, body=json.dumps(event), query={"token": "t"}))
    assert (answer.status, answer.content) == (200, {"validationResponse": "512d38b6"})
    for wrong in ("[]", "{", '[{"data":{"validationCode":7}}]', "[" * 100):
        assert (await hook.answer(request(headers, body=wrong, query={"token": "t"}))).status == 400
    asked = request({"WebHook-Request-Origin": "eventemitter.example.com"}, method="OPTIONS", query={"token": "t"})
    assert (await hook.answer(asked)).headers["WebHook-Allowed-Origin"] == "eventemitter.example.com"
    assert (await hook.answer(request({"WebHook-Request-Origin": "x"}, method="OPTIONS"))).status == 401


def test_signing_is_what_the_reference_does() -> None:
    right = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(NOW_S, UTC), BODY)
    assert sign(key_of(SECRET), message_id="msg_1", timestamp_s=int(NOW_S), body=BODY.encode()) == right
    with pytest.raises(ValueError, match="base64"):
        key_of("whsec_!")
