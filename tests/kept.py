"""Everything that a running system keeps, as places and bytes, to be searched for what should not be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import Consumer
from redis import Redis

from analytics.connection import connect
from analytics.settings import HouseSettings
from serving import ledger

__all__ = ["in_clickhouse", "in_kafka", "in_logs", "in_redis"]

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


def in_clickhouse(settings: HouseSettings) -> Kept:
    """Every table and view of every database, the states of roll-ups included, and what the server keeps of statements."""
    told = "name IN ('mutations', 'parts', 'parts_columns') OR name LIKE '%\\_log'"
    wanted = f"database NOT IN ('system', 'INFORMATION_SCHEMA', 'information_schema') OR (database = 'system' AND ({told}))"
    with connect(settings) as client:
        for database, name in client.query(f"SELECT database, name FROM system.tables WHERE {wanted}").result_rows:
            yield f"clickhouse {name}", client.raw_query(f"SELECT * FROM `{database}`.`{name}`", fmt="RowBinary")
