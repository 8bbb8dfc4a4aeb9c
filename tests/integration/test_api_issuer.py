"""Keys of an issuer over HTTP: fetched by the clock and by nothing that a caller sends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import pytest

from api.identity import Caller, require
from api.tokens import load_key_set
from fraud.errors import Unavailable
from tests.api_world import Issuer, attended, gated, settings


class IssuerServer:
    """Serves the keys of ``issuer``, counts who asks, and can be away."""

    def __init__(self) -> None:
        self.issuer = Issuer()
        self.asked = 0
        self.is_away = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                self.send_response(503 if server.is_away else 200)
                self.end_headers()
                self.wfile.write(json.dumps(server.issuer.jwks()).encode())

            def log_message(self, *_arguments: Any) -> None:
                """Keep quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/keys"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    running = IssuerServer()
    yield running
    running.close()


@pytest.fixture
def client(server: IssuerServer, tmp_path: Path) -> Iterator[Any]:
    app = gated(settings(tmp_path, server.issuer, jwks_file=None, jwks_url=server.url, jwks_refresh_s=1.0))

    @app.get("/who")
    def who(caller: Annotated[Caller, require()]) -> str:
        return caller.tenant_id

    with attended(app) as client:
        yield client


def status(client: Any, token: str) -> int:
    code: int = client.get("/who", headers={"Authorization": f"Bearer {token}"}).status_code
    return code


def wait_for(condition: Any) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_no_token_makes_us_ask_anybody(server: IssuerServer, client: Any) -> None:
    server_wide = [server.issuer.token(headers={"kid": f"unknown-{i}", "jku": server.url}) for i in range(200)]
    before, began_s = server.asked, time.monotonic()
    assert {status(client, token) for token in server_wide} == {401}
    assert server.asked - before <= time.monotonic() - began_s + 1  # what the clock alone asks


def test_a_new_key_is_taken_over_and_an_old_one_dropped_by_the_clock(server: IssuerServer, client: Any) -> None:
    old = server.issuer.token()
    assert status(client, old) == 200
    server.issuer = Issuer()
    new = server.issuer.token()
    wait_for(lambda: status(client, new) == 200)
    assert status(client, old) == 401


def test_an_issuer_that_is_away_leaves_the_keys_that_we_have(server: IssuerServer, client: Any) -> None:
    server.is_away = True
    asked = server.asked
    wait_for(lambda: server.asked >= asked + 2)
    assert status(client, server.issuer.token()) == 200


@pytest.mark.parametrize("content", [b"", b"[]", b'{"keys":[]}', b'{"keys":[{"kty":"EC","crv":"P-256","kid":"x"}]}', b"{" * 300_000])
def test_keys_that_cannot_be_read_keep_the_process_from_starting(tmp_path: Path, content: bytes) -> None:
    chosen = settings(tmp_path, Issuer())
    assert chosen.jwks_file is not None
    chosen.jwks_file.write_bytes(content)
    with pytest.raises(Unavailable):
        load_key_set(chosen)
