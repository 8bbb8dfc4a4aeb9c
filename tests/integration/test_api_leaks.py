"""After a run with secrets and card numbers put wherever a caller can put something: none of them is found in anything that we keep."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator

import httpx2
import pytest

from api.identity import API_KEY_HEADER, Role
from api.signing import SIGNATURE_HEADER, TIME_HEADER, secret_of, sign
from serving.card_numbers import has_card_number
from tests.api_stack import ApiStack, question
from tests.kept import in_kafka, in_logs, in_redis

PAN = "4539 1488 0343 6467"
PAN_DIGITS = PAN.replace(" ", "")
ADDRESS = "198.51.100.77"
# of our own secrets: a key as its caller sends it, and a bearer token's three parts
_KEY = re.compile(rb"fgk_[A-Za-z0-9_.-]{20,}")
_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiStack]:
    running = ApiStack(tmp_path_factory.mktemp("home"))
    running.up()
    yield running
    running.down()


@pytest.fixture(scope="module")
def secrets(stack: ApiStack) -> list[str]:
    """What the run has used, after the run."""
    token = stack.access.issue_token("acme", "ann", Role.ADMIN)
    credential = {API_KEY_HEADER: stack.key, "Content-Type": "application/json"}
    bodies = [
        json.dumps(question(ip_address=ADDRESS)),
        json.dumps(question() | {"pan": PAN}),  # a field that nobody knows
        json.dumps(question(amount_minor=PAN)),  # the wrong type
        json.dumps(question(currency=PAN)),
        "{" + PAN,  # no JSON
    ]
    with httpx2.Client(base_url=stack.url, timeout=20) as http:
        statuses = [http.post("/v1/score", content=body, headers=credential).status_code for body in bodies]
        assert statuses == [200, 422, 422, 422, 400]
        for path in (f"/v1/decisions/{PAN_DIGITS}", f"/{PAN_DIGITS}", f"/v1/rules/sets/{PAN_DIGITS}", f"/v1/audit?after={PAN_DIGITS}x"):
            http.get(path, headers={"Authorization": f"Bearer {token}", "User-Agent": PAN, "traceparent": PAN})
        http.post("/v1/score", content=bodies[0], headers=credential | {API_KEY_HEADER: f"{stack.key}x"})
        http.post("/v1/score", content=bodies[0], headers=credential | {"Authorization": f"Bearer {token}"})
        http.post("/v1/score", content=json.dumps(question(ip_address=ADDRESS)), headers=credential | {"tenant-id": PAN})
        http.delete("/v1/subjects/card/c-1", headers={"Authorization": f"Bearer {token}"})
    time.sleep(1.0)  # lines and records are on their way
    return [PAN, PAN_DIGITS, ADDRESS, stack.key, token, *token.split("."), stack.access.signing_secret]


def told_in_metrics(stack: ApiStack) -> Iterator[tuple[str, bytes]]:
    for sample in stack.samples():
        yield f"metric {sample.name}", " ".join((sample.name, *sample.labels.values())).encode()


def everything(stack: ApiStack) -> list[tuple[str, bytes]]:
    addresses, logs = stack.plan.addresses, stack.log("api").parent
    return [*in_redis(addresses.redis_url), *in_kafka(addresses.bootstrap_servers), *in_logs(logs), *told_in_metrics(stack)]


def found(kept: list[tuple[str, bytes]], secrets: list[str]) -> list[str]:
    """Where one of the secrets stands, as it is, in hexadecimal, or in base64."""
    wanted = [form for secret in secrets for form in (secret.encode(), secret.encode().hex().encode(), base64.b64encode(secret.encode()))]
    return [place for place, content in kept if any(form in content for form in wanted)]


def test_nothing_that_was_put_in_is_found_anywhere(stack: ApiStack, secrets: list[str]) -> None:
    kept = everything(stack)
    assert {place.split()[0] for place, _ in kept} == {"redis", "kafka", "log", "metric"}
    assert found(kept, secrets) == []


def test_nothing_reads_like_a_key_a_token_or_a_card_number(stack: ApiStack, secrets: list[str]) -> None:
    kept = everything(stack)
    assert secrets
    assert [place for place, content in kept if _KEY.search(content) or _TOKEN.search(content)] == []
    # binary records hold runs of digits by chance only inside of hashes, and those are hexadecimal: text alone is searched
    text = [(place, content.decode()) for place, content in kept if place.startswith(("log", "metric", "redis key"))]
    times = re.compile(r"1[6-9]\d{11}")  # milliseconds of this century
    assert [place for place, content in text if has_card_number(times.sub("", content))] == []


def test_the_search_finds_what_is_there(stack: ApiStack, secrets: list[str]) -> None:
    """The control: one secret in each kind of place."""
    client = stack.redis()
    client.set(f"planted:{PAN_DIGITS}", "x")
    client.hset("planted", "field", secrets[3])
    assert {place.split()[0] for place in found(everything(stack), secrets)} == {"redis"}
    client.delete(f"planted:{PAN_DIGITS}", "planted")
    log = stack.log("planted")
    log.write_text(f"the card is {PAN}")
    assert found(everything(stack), secrets) == [f"log {log.name}"]
    log.unlink()
    assert has_card_number(f"paid with {PAN}")


def test_a_signed_request_of_six_minutes_ago_is_no_request_any_more(stack: ApiStack) -> None:
    """Whoever has listened has five minutes, and then only for the same question, which gets the same answer."""
    key, text = stack.access.key_file.create("acme", "signer", Role.SERVICE, must_sign=True)
    secret = secret_of(stack.access.signing_secret, key.key_id)
    time.sleep(1.1)  # the file is looked at once a second
    body = json.dumps(question()).encode()
    answers = []
    for age_s in (0, 0, 240, 360):
        at_s = int(time.time()) - age_s
        headers = {API_KEY_HEADER: text, "Content-Type": "application/json", TIME_HEADER: str(at_s)}
        headers[SIGNATURE_HEADER] = sign(secret, "POST", "/v1/score", at_s, body)
        answers.append(httpx2.post(f"{stack.url}/v1/score", content=body, headers=headers, timeout=20))
    assert [one.status_code for one in answers] == [200, 200, 200, 401]
    assert len({one.content for one in answers[:3]}) == 1
