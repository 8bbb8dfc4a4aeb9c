"""Ask a server whether it can do its work now; each probe returns None when it can, else the reason in a few words."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

from infra.ports import HOST

__all__ = ["probe_http", "probe_kafka", "probe_redis", "probe_taskmanager", "probe_text", "read_json_url"]

_TIMEOUT_S = 2.0


def read_json_url(url: str, timeout_s: float = _TIMEOUT_S) -> Any:
    """GET a JSON document from a server of ours; raises ``OSError`` or ``ValueError``."""
    with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - our own loopback address
        return json.load(answer)


def probe_http(url: str) -> str | None:
    """Ready when ``url`` answers with JSON."""
    try:
        read_json_url(url)
    except urllib.error.HTTPError as error:
        return f"answers {error.code}"
    except (OSError, ValueError) as error:
        return _describe(error)
    return None


def probe_text(url: str, expected: str) -> str | None:
    """Ready when the answer of ``url`` has the expected words."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - our own loopback address
            text = answer.read().decode("utf-8", "replace")
    except OSError as error:
        return _describe(error)
    return None if expected in text else f"answers without {expected}"


def probe_redis(port: int) -> str | None:
    """Ready when PING is answered; a server that still loads its file says so."""
    try:
        with socket.create_connection((HOST, port), timeout=_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(256)
    except OSError as error:
        return _describe(error)
    return None if answer.startswith(b"+PONG") else answer.decode("ascii", "replace").strip()


def probe_kafka(port: int) -> str | None:
    """Ready when the broker has registered itself in the metadata that it serves."""
    try:
        with socket.create_connection((HOST, port), timeout=_TIMEOUT_S):
            pass
    except OSError as error:
        return _describe(error)
    from confluent_kafka import KafkaException  # noqa: PLC0415 - 50 ms that a closed port need not cost
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    client = AdminClient({"bootstrap.servers": f"{HOST}:{port}", "log_level": 0, "socket.timeout.ms": 2000})
    try:
        brokers = client.list_topics(timeout=_TIMEOUT_S).brokers
    except KafkaException as error:
        return str(error.args[0].str())
    return None if brokers else "the broker is not registered yet"


def probe_taskmanager(rest_url: str, resource_id: str, started_at: float) -> str | None:
    """Ready when the JobManager has heard from this TaskManager since ``started_at`` (seconds of the epoch).

    A killed TaskManager stays listed until its heartbeat times out, hence the comparison.
    """
    try:
        listed = read_json_url(f"{rest_url}/taskmanagers")["taskmanagers"]
    except (OSError, ValueError, KeyError) as error:
        return f"JobManager: {_describe(error)}"
    for entry in listed:
        if entry["id"] == resource_id and entry["timeSinceLastHeartbeat"] / 1000 >= started_at:
            return None
    return "not registered with the JobManager"


def _describe(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return "nothing listens" if isinstance(reason, ConnectionRefusedError) else f"{type(reason).__name__}: {reason}"
