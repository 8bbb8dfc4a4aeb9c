"""Find free TCP ports and say who holds a taken one; starts nothing."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

import psutil

from fraud.errors import Unavailable

__all__ = ["HOST", "PortTaken", "describe_listener", "find_free_ports", "is_free", "require_free"]

HOST = "127.0.0.1"
_CANDIDATES = range(20_000, 32_000)  # below the range that the kernel hands out to clients, so a restarted server finds its port free


class PortTaken(Unavailable):
    """A port that a server of ours needs is held by somebody else; the text says by whom and what to change."""


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` of the loopback interface now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def find_free_ports(count: int, *, taken: Iterable[int] = (), chance: random.Random | None = None) -> list[int]:
    """``count`` different free ports, none of them in ``taken``."""
    chance = chance or random.SystemRandom()
    found: list[int] = []
    seen = set(taken)
    while len(found) < count:
        port = chance.choice(_CANDIDATES)
        if port not in seen and is_free(port):
            found.append(port)
        seen.add(port)
        if len(seen) >= len(_CANDIDATES):
            raise Unavailable("ports", f"no {count} free ports between {_CANDIDATES.start} and {_CANDIDATES.stop}")
    return found


def describe_listener(port: int) -> str:
    """The process that listens on ``port``, for people: ``java (pid 123)``."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        pass
    return "another process"


def require_free(server: str, port: int, setting: str) -> None:
    """Raise ``PortTaken`` with the way out when ``server`` cannot listen on ``port``."""
    if not is_free(port):
        raise PortTaken(
            server,
            f"port {port} is taken by {describe_listener(port)}. Stop that process, "
            f"or choose another port with {setting}=<port> (0 picks a free one).",
        )
