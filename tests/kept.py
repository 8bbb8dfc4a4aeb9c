"""Everything that a running system keeps, as places and bytes, to be searched for what should not be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer
from redis import Redis

from serving import ledger

__all__ = ["in_kafka", "in_logs", "in_redis"]

Kept = Iterator[tuple[str, bytes]]


def in_redis(url: str) -> Kept:
    """Every key and every value."""
    client = Redis.from_url(url)
    for key in client.scan_iter(count=1_000):
        yield f"redis key {key!r}", key
        match client.type(key):
            case b"string":
                yield f"redis value of {key!r}", client.get(key) or b""
            case b"hash":
                for name, value in client.hgetall(key).items():
                    yield f"redis field of {key!r}", name + b" " + value
            case kind:
                raise AssertionError(f"{key!r}: a {kind!r}, which this search does not look into")


def in_kafka(bootstrap: str) -> Kept:
    """Key, value and headers of every record of every topic of ours."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": "search"})
    topics = [name for name in reader.list_topics(timeout=10).topics if not name.startswith("__")]
    reader.close()
    for message in ledger.read_to_end(bootstrap, topics):
        headers = [value if isinstance(value, bytes) else str(value).encode() for _, value in message.headers() or [] if value]
        yield f"kafka {message.topic()}", b" ".join((message.key() or b"", message.value() or b"", *headers))


def in_logs(folder: Path) -> Kept:
    """Every file under a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield f"log {path.name}", path.read_bytes()
