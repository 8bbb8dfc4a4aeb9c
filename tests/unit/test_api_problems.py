from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.testclient import TestClient

from api import problems, security
from api.identity import Unauthenticated
from api.problems import Problem
from api.strict_json import StrictRoute
from fraud.errors import Denied, InvalidEvent, Unavailable
from tests.api_world import Issuer, settings

SECRET_TEXT = "4111111111111111"


class Item(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    name: str = Field(max_length=64)
    amount: float
    tags: dict[str, int] = Field(default_factory=dict)


ERRORS: dict[str, Exception] = {
    "invalid": InvalidEvent("bad_amount", "amount_minor is below 0"),
    "away": Unavailable("redis", SECRET_TEXT),
    "nobody": Unauthenticated(SECRET_TEXT),
    "denied": Denied(SECRET_TEXT),
    "problem": Problem(409, "in_progress", headers={"Retry-After": "1"}),
    "bug": RuntimeError(SECRET_TEXT),
}


def application(folder: Path, **changed: Any) -> FastAPI:
    chosen = settings(folder, Issuer(), max_body_bytes=2_048, **changed)
    app = FastAPI(**security.openapi_urls(chosen))  # type: ignore[arg-type]
    problems.install(app)
    router = APIRouter(route_class=StrictRoute)

    @router.post("/items")
    def items(item: Item) -> str:
        return item.name

    @router.get("/errors/{name}")
    def errors(name: str) -> str:
        raise ERRORS[name]

    app.include_router(router)
    security.install(app, chosen)
    return app


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with TestClient(application(tmp_path_factory.mktemp("api")), raise_server_exceptions=False) as client:
        yield client


def post(client: TestClient, body: bytes, content_type: str = "application/json") -> Any:
    return client.post("/items", content=body, headers={"Content-Type": content_type})


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("invalid", 422, "bad_amount"),
        ("away", 503, "unavailable"),
        ("nobody", 401, "unauthenticated"),
        ("denied", 403, "denied"),
        ("problem", 409, "in_progress"),
        ("bug", 500, "internal_error"),
        ("", 404, "not_found"),
    ],
)
def test_every_error_is_a_problem_of_its_status(client: TestClient, name: str, status: int, code: str) -> None:
    answer = client.get(f"/errors/{name}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:fraudguard:problem:{code}"
    assert answer.json()["status"] == status
    assert SECRET_TEXT not in answer.text
    assert ("retry-after" in answer.headers) is (status in (503, 409))


def test_a_method_that_is_not_there_is_a_problem_with_the_ones_that_are(client: TestClient) -> None:
    answer = client.delete("/items")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["type"] == "urn:fraudguard:problem:method_not_allowed"


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nan": (b'{"name":"zebra","amount":NaN}', 422),
    "infinity": (b'{"name":"zebra","amount":Infinity}', 422),
    "minus infinity": (b'{"name":"zebra","amount":-Infinity}', 422),
    "1e999": (b'{"name":"zebra","amount":1e999}', 422),
    "surrogate value": (b'{"name":"zebra\\ud800","amount":1}', 422),
    "surrogate key": (b'{"name":"zebra","amount":1,"\\ud800":1}', 422),
    "nested surrogate": (b'{"name":"zebra","amount":1,"tags":{"a\\uDFFF":1}}', 422),
    "duplicate key": (b'{"name":"zebra","amount":1,"amount":2}', 400),
    "nested duplicate": (b'{"name":"zebra","amount":1,"tags":{"a":1,"a":2}}', 400),
    "byte-order mark": (b'\xef\xbb\xbf{"name":"zebra","amount":1}', 400),
    "utf-16": ('{"name":"zebra","amount":1}'.encode("utf-16"), 400),
    "utf-16 without mark": ('{"name":"zebra","amount":1}'.encode("utf-16-le"), 400),
    "latin-1": (b'{"name":"zebra\xe9","amount":1}', 400),
    "encoded surrogate": (b'{"name":"zebra\xed\xa0\x80","amount":1}', 400),
    "deep": (b'{"name":' + b"[" * 1_000 + b"]" * 1_000 + b"}", 400),
    "5,000 digits": None,  # type: ignore[dict-item]  # below: larger than this application's limit
    "cut": (b'{"name":"zebra"', 400),
    "nothing": (b"", 422),
    "text": (b"zebra", 400),
    "number as text": (b'{"name":"zebra","amount":"1"}', 422),
    "true as number": (b'{"name":"zebra","amount":true}', 422),
    "null": (b"null", 422),
    "list": (b"[]", 422),
}
BAD_BODIES["5,000 digits"] = (b'{"name":"zebra","amount":' + b"9" * 1_900 + b"}", 422)


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_json_is_refused_without_an_echo(client: TestClient, name: str) -> None:
    body, status = BAD_BODIES[name]
    answer = post(client, body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) <= 2_048
    assert "zebra" not in answer.text


def test_whole_pairs_and_odd_text_are_text(client: TestClient) -> None:
    assert post(client, b'{"name":"\\ud83d\\ude00 \xe2\x80\xae \xf0\x9f\x98\x80","amount":-0.0}').status_code == 200


def test_unknown_names_are_counted_and_not_repeated(tmp_path: Path) -> None:
    with TestClient(application(tmp_path), raise_server_exceptions=False) as client:
        body = {"name": "n", "amount": 1, **{f"zebra{i}": i for i in range(120)}}
        answer = post(client, json.dumps(body).encode())
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert answer.json()["errors"][0] == {"type": "extra_forbidden", "loc": ["body", "unknown"]}
    assert "zebra" not in answer.text
    assert len(answer.content) <= 2_048


def test_names_inside_a_mapping_are_escaped(client: TestClient) -> None:
    answer = post(client, b'{"name":"n","amount":1,"tags":{"<script>\\r\\n":"x"}}')
    assert answer.status_code == 422
    assert "<" not in answer.text


def test_a_body_that_is_no_json_by_its_type_is_refused(client: TestClient) -> None:
    assert post(client, b'{"name":"n","amount":1}', "text/plain").status_code == 422


@pytest.mark.parametrize("size", [2_049, 1_000_000])
def test_a_body_above_the_limit_is_refused_by_its_length(client: TestClient, size: int) -> None:
    answer = post(client, b'{"name":"' + b"a" * (size - 9))
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_a_body_above_the_limit_is_refused_in_chunks_too(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 100

    answer = client.post("/items", content=chunks(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


@pytest.mark.parametrize("length", ["-1", "abc", "1e9", "٣"])
def test_a_length_that_is_none_is_refused(client: TestClient, length: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": length.encode()}
    assert client.post("/items", content=b"{}", headers=headers).status_code == 413


def test_every_answer_has_the_security_headers_and_no_server_talk(client: TestClient) -> None:
    for answer in (post(client, b"{}"), client.get("/errors/bug"), client.get("/nowhere")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "traceback" not in answer.text.lower()


def test_production_has_no_documents_and_asks_for_tls(tmp_path: Path) -> None:
    with TestClient(application(tmp_path, environment="production"), raise_server_exceptions=False) as client:
        answers = [client.get(path) for path in ("/openapi.json", "/docs", "/redoc")]
    assert [one.status_code for one in answers] == [404] * 3
    assert "max-age=31536000" in answers[0].headers["strict-transport-security"]


def test_a_page_of_another_origin_gets_leave_only_where_it_is_named(tmp_path: Path) -> None:
    with TestClient(application(tmp_path, cors_origins=("https://desk.test",))) as client:
        named = client.options("/items", headers={"Origin": "https://desk.test", "Access-Control-Request-Method": "POST"})
        other = client.options("/items", headers={"Origin": "https://evil.test", "Access-Control-Request-Method": "POST"})
    assert named.headers["access-control-allow-origin"] == "https://desk.test"
    assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-credentials" not in named.headers
