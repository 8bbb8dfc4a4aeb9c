from __future__ import annotations

import pytest

from api.identity import Unauthenticated
from api.signing import check, secret_of, sign

NOW_S = 1_700_000_000
SECRET = secret_of("m" * 32, "0123456789abcdef")
BODY = b'{"transaction_id":"t1"}'


def headers(time_s: int = NOW_S, method: str = "POST", target: str = "/v1/score?x=1", body: bytes = BODY) -> dict[str, str]:
    return {"x-signature": sign(SECRET, method, target, time_s, body), "x-signature-time": str(time_s)}


def is_accepted(shown: dict[str, str], method: str = "POST", target: str = "/v1/score?x=1", body: bytes = BODY) -> bool:
    try:
        check(SECRET, method, target, shown, body, NOW_S)
    except Unauthenticated:
        return False
    return True


@pytest.mark.parametrize(("age_s", "accepted"), [(0, True), (299, True), (300, True), (301, False), (-30, True), (-31, False)])
def test_a_request_is_good_for_five_minutes(age_s: int, accepted: bool) -> None:
    assert is_accepted(headers(NOW_S - age_s)) is accepted


@pytest.mark.parametrize(
    "changed",
    [{"method": "PUT"}, {"target": "/v1/score"}, {"target": "/v1/score?x=2"}, {"body": BODY + b" "}, {"body": b""}],
    ids=str,
)
def test_nothing_that_is_signed_may_change(changed: dict[str, str]) -> None:
    assert not is_accepted(headers(), **changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"x-signature-time": ""},
        {"x-signature-time": "-1"},
        {"x-signature-time": "²"},
        {"x-signature-time": "9" * 5_000},
        {"x-signature-time": str(NOW_S + 1)},
        {"x-signature": ""},
        {"x-signature": "é"},
        {"x-signature": "0" * 64},
    ],
    ids=str,
)
def test_a_signature_that_is_none_is_refused(broken: dict[str, str]) -> None:
    assert not is_accepted(headers() | broken if broken else {})


def test_every_key_has_a_secret_of_its_own() -> None:
    assert len({secret_of("m" * 32, "a"), secret_of("m" * 32, "b"), secret_of("n" * 32, "a")}) == 3
