"""The registry's promises, held by the one inside the process and by the client against a stand-in that speaks the protocol.

The stand-in is trusted because the real server passes the same suite (tests/integration); what only it can show is what the client
asks, and what it does when nobody answers.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

from fraud.errors import InvalidEvent, Unavailable
from serving.registry import HttpRegistry, IncompatibleSchema, LocalRegistry, register_all
from serving.schemas import SCHEMAS, schema_text
from tests.schema_registry_contract import ONE, SchemaRegistryContract, schema

BASE = "/apis/ccompat/v7"


class StandIn(ThreadingHTTPServer):
    """Speaks the four requests that the client uses; ``answer`` replaces every answer by a status and a body."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.authorizations: set[str | None] = set()
        self.answer: tuple[int, bytes] | None = None
        self.delay_s = 0.0
        self.holds = LocalRegistry()
        self.url = f"http://127.0.0.1:{self.server_address[1]}{BASE}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up before the answer is what one test is about."""

    def reply(self, method: str, path: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        if method == "PUT" and path[0] == "config":
            return 200, {"compatibilityLevel": body["compatibility"]}
        try:
            if method == "POST" and path[0] == "subjects":
                return 200, {"id": self.holds.register(path[1], body["schema"])}
            return 200, {"schema": self.holds.schema_by_id(int(path[2])), "schemaType": "AVRO"}
        except IncompatibleSchema as refused:
            return 409, {"error_code": 409, "message": str(refused)}
        except InvalidEvent:
            return 404, {"error_code": 40403, "message": "Schema not found"}


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def _serve(self) -> None:
        standin = self.server
        standin.requests.append(f"{self.command} {self.path.removeprefix(BASE)}")
        standin.authorizations.add(self.headers.get("Authorization"))
        time.sleep(standin.delay_s)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path = [unquote(part) for part in self.path.removeprefix(BASE).strip("/").split("/")]
        status, reply = standin.answer or standin.reply(self.command, path, body)
        raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_GET = do_PUT = do_POST = _serve  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def standin() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def client(standin: StandIn, clock: FakeClock) -> HttpRegistry:
    return HttpRegistry(standin.url, unknown_ttl_s=10.0, unknown_limit=8, clock=clock)


class TestLocalRegistry(SchemaRegistryContract):
    @pytest.fixture
    def registry(self) -> LocalRegistry:
        return LocalRegistry()

    @pytest.fixture
    def subject(self) -> str:
        return "probe-value"

    def test_two_processes_agree_on_ids_without_talking(self) -> None:
        assert register_all(LocalRegistry()) == register_all(LocalRegistry())

    def test_documentation_and_spacing_do_not_change_an_id(self) -> None:
        documented = json.dumps(json.loads(schema({**ONE, "doc": "What it is."})), indent=4)
        assert LocalRegistry().register("s", documented) == LocalRegistry().register("s", schema(ONE))


class TestHttpRegistry(SchemaRegistryContract):
    @pytest.fixture
    def registry(self, client: HttpRegistry) -> HttpRegistry:
        return client

    @pytest.fixture
    def subject(self) -> str:
        return "probe/with a space-value"


def unknown(client: HttpRegistry, schema_id: int) -> None:
    with pytest.raises(InvalidEvent, match="unknown_schema_id"):
        client.schema_by_id(schema_id)


def test_a_subject_is_backward_before_anything_is_in_it(client: HttpRegistry, standin: StandIn) -> None:
    client.register("t-value", schema(ONE))
    assert standin.requests == ["PUT /config/t-value", "POST /subjects/t-value/versions"]


def test_a_known_id_is_asked_for_once(client: HttpRegistry, standin: StandIn, clock: FakeClock) -> None:
    ids = register_all(HttpRegistry(standin.url))
    standin.requests.clear()
    for _ in range(3):
        assert client.schema_by_id(ids["transaction"]) == schema_text("transaction")
        clock.now += 10_000
    assert standin.requests == [f"GET /schemas/ids/{ids['transaction']}"]


def test_a_schema_that_we_registered_is_not_asked_for_at_all(client: HttpRegistry, standin: StandIn) -> None:
    ids = register_all(client)
    standin.requests.clear()
    assert {client.schema_by_id(schema_id) for schema_id in ids.values()} == {schema_text(name) for name in SCHEMAS}
    assert standin.requests == []


def test_an_unknown_id_is_asked_again_only_when_its_time_is_over(client: HttpRegistry, standin: StandIn, clock: FakeClock) -> None:
    for _ in range(5):
        unknown(client, 77)
    clock.now += 9.9
    unknown(client, 77)
    assert len(standin.requests) == 1
    clock.now += 0.2
    unknown(client, 77)
    assert len(standin.requests) == 2


def test_a_schema_registered_after_its_first_record_is_found(client: HttpRegistry, standin: StandIn, clock: FakeClock) -> None:
    text = schema(ONE)
    schema_id = LocalRegistry().register("any", text)
    unknown(client, schema_id)
    standin.holds.register("t-value", text)
    clock.now += 10.1
    assert client.schema_by_id(schema_id) == text


def test_garbage_ids_cannot_flood_the_registry(client: HttpRegistry, standin: StandIn, clock: FakeClock) -> None:
    """Eight questions in ten seconds, however many ids there are; and room again afterwards."""
    for schema_id in range(1, 1001):
        unknown(client, schema_id)
    assert len(standin.requests) == 8
    clock.now += 10.1
    for schema_id in range(2001, 3001):
        unknown(client, schema_id)
    assert len(standin.requests) == 16


def test_an_id_that_no_registry_gives_is_not_even_asked_for(client: HttpRegistry, standin: StandIn) -> None:
    for schema_id in (0, 2**31, 2**32 - 1):
        unknown(client, schema_id)
    assert standin.requests == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (503, b""),
        (404, b'{"message":"no such path"}'),
        (429, b'{"message":"slow down"}'),
        (401, b"{}"),
        (200, b"<html>"),
        (200, b"[]"),
        (302, b"{}"),
        (200, b"\xff"),
    ],
)
def test_an_answer_that_is_none_is_unavailable_and_concludes_nothing(
    client: HttpRegistry, standin: StandIn, status: int, body: bytes
) -> None:
    ids = register_all(HttpRegistry(standin.url))
    standin.answer = (status, body)
    with pytest.raises(Unavailable):
        client.schema_by_id(ids["label"])
    with pytest.raises(Unavailable):
        client.register("t-value", schema(ONE))
    standin.answer = None
    assert client.schema_by_id(ids["label"]) == schema_text("label")


def test_a_schema_of_another_language_is_the_wrong_schema(client: HttpRegistry, standin: StandIn) -> None:
    standin.answer = (200, b'{"schema":"syntax = \\"proto3\\";","schemaType":"PROTOBUF"}')
    with pytest.raises(InvalidEvent) as caught:
        client.schema_by_id(5)
    assert caught.value.code == "wrong_schema"


def test_a_registry_that_is_down_or_silent_is_unavailable_within_the_timeout(standin: StandIn) -> None:
    standin.delay_s = 1.0
    started = time.monotonic()
    with pytest.raises(Unavailable):
        HttpRegistry(standin.url, timeout_s=0.1).schema_by_id(5)
    assert time.monotonic() - started < 0.9
    standin.shutdown()
    standin.server_close()
    with pytest.raises(Unavailable):
        HttpRegistry(standin.url).schema_by_id(5)
    with pytest.raises(Unavailable):
        HttpRegistry(standin.url).register("t-value", schema(ONE))


def test_credentials_go_with_every_request_and_into_no_message(standin: StandIn) -> None:
    secret = "Basic c2VjcmV0"
    by = HttpRegistry(standin.url, authorization=secret)
    by.register("t-value", schema(ONE))
    standin.answer = (500, b"{}")
    with pytest.raises(Unavailable) as caught:
        by.schema_by_id(5)
    assert standin.authorizations == {secret}
    assert secret not in str(caught.value)


@pytest.mark.parametrize("url", ["", "localhost:8081", "ftp://host/", "file:///etc/passwd", "http://"])
def test_what_is_no_address_of_a_registry_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="registry"):
        HttpRegistry(url)
