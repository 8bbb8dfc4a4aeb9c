"""Questions about the log, asked of a real broker at the moments at which it has no good answer yet."""

from __future__ import annotations

import uuid

from infra.stack import Stack
from infra.topics import Topic, create_topics
from serving import ledger


def test_a_topic_ends_at_zero_as_soon_as_it_is_there(stack: Stack) -> None:
    """The broker says that a topic is there before its partitions have a leader: a wait, not an error."""
    bootstrap = stack.addresses.bootstrap_servers
    for _ in range(30):
        topic = f"probe-{uuid.uuid4().hex}"
        create_topics(bootstrap, partitions=4, retention_ms=3_600_000, topics=[Topic(topic)])
        ends = ledger.end_offsets(bootstrap, (topic,))
        assert sorted((end.partition, end.offset) for end in ends) == [(partition, 0) for partition in range(4)]
