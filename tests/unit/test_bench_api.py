"""The HTTP load: what it sends, how it counts waiting, and when a rate is held."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from infra.bench_api import is_held
from infra.http_load import HttpLoad, HttpMeasured, request_bytes, send
from infra.percentiles import percentiles_ms

SERVICE_S = 0.05
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer-Timing: features;dur=1.500, scoring;dur=0.2\r\n\r\n{}"


def test_a_request_is_one_piece_of_bytes_with_its_length() -> None:
    assert request_bytes("/v1/score", b"{}", {"X-API-Key": "k"}, "h:1") == (
        b"POST /v1/score HTTP/1.1\r\nHost: h:1\r\nContent-Type: application/json\r\nContent-Length: 2\r\nX-API-Key: k\r\n\r\n{}"
    )


def measured(latency_s: list[float], seconds: float, statuses: Counter[int] | None = None) -> HttpMeasured:
    values = np.array(latency_s)
    return HttpMeasured(values, values / 10, statuses or Counter({200: len(values)}), seconds)


@pytest.mark.parametrize(
    ("one", "held"),
    [
        (measured([0.001] * 100, 1.0), True),
        (measured([0.001] * 97 + [0.06] * 3, 1.0), False),
        (measured([0.001] * 100, 1.2), False),
        (measured([0.001] * 100, 1.0, Counter({200: 99, 429: 1})), False),
    ],
    ids=["quick", "slow at the end of the scale", "a queue is left", "a refusal"],
)
def test_a_rate_is_held_when_everything_is_answered_in_time(one: HttpMeasured, held: bool) -> None:
    assert is_held(one, percentiles_ms(1e3 * one.latency_s), 100.0) is held


@pytest.fixture
def slow_server() -> Iterator[int]:
    """Answers one request after the other on one connection, each after 50 ms."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65_536):
                time.sleep(SERVICE_S)
                connection.sendall(ANSWER)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join(5)


def test_waiting_for_a_connection_counts_against_the_server(slow_server: int) -> None:
    """Ten requests are due at once; the last one has waited for nine others."""
    load = HttpLoad("127.0.0.1", slow_server, [request_bytes("/", b"{}", {}, "h")] * 10)
    found = send(load, rate=1e6, connections=1)
    assert found.statuses == Counter({200: 10})
    assert found.latency_s[-1] >= 10 * SERVICE_S
    assert np.all(np.diff(found.latency_s) > 0)
    assert found.features_s.tolist() == [0.0015] * 10
