"""The rule set and the model in force in this process: the defaults first, then whatever the control topics say, live.

A thread follows the compacted topics ``rules`` and ``models`` from their beginning; a record is in force as soon as it is read, which
is well within a second.  A record that cannot be used is refused and counted, and what was in force stays, as on the stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog
from confluent_kafka import KafkaError, Message

from fraud.errors import Unavailable
from serving import ledger, model_files
from serving.codec import Codec
from serving.model import ModelRefused, load_model
from serving.versions import ControlledVersions

__all__ = ["ReleaseFollower", "Releases"]

_TOPICS = ("rules", "models")
_EVERYTHING = 0  # there are no shards here
_POLL_S = 0.2
_RETRY_S = 1.0

_log = structlog.get_logger()


def _nothing_kept(_name: str) -> bytes | None:
    return None


class Releases:
    """What is in force.  One thread adopts, any thread reads.

    Args:
        codec: decodes control records.
        models_dir: where models lie, by their SHA-256.
        default_rules: canonical JSON, in force until the topic says otherwise; None for none.
        on_refused: called with ``rules`` or ``models``.
    """

    def __init__(
        self, codec: Codec, models_dir: Path, default_rules: str | None, *, on_refused: Callable[[str], None] = lambda _topic: None
    ) -> None:
        self._models_dir = models_dir
        self._controlled = ControlledVersions(codec, models_dir, default_rules, default_model=None)
        self._on_refused = on_refused
        self._refused: set[str] = set()
        self.versions = self._controlled.of(_EVERYTHING, _nothing_kept)
        self.look_for_model()

    def adopt(self, topic: str, value: bytes | None) -> bool:
        """Put a control record in force, and try what it tries; False when either is refused."""
        adopted, found = self._controlled.adopt(_EVERYTHING, topic, value), self.versions.model
        versions = self._controlled.of(_EVERYTHING, _nothing_kept)
        self.versions = versions if versions.model is not None else replace(versions, model=found)
        if adopted.is_refused:
            self._on_refused(topic)
            _log.error("release_refused", topic=topic)
        return not adopted.is_refused

    def look_for_model(self) -> None:
        """Without a model, take the one that has been put in production since: a fresh installation trains while we run."""
        if self.versions.model is not None:
            return
        sha256 = _production(self._models_dir)
        if sha256 is not None and sha256 not in self._refused:
            try:
                self.versions = replace(self.versions, model=load_model(self._models_dir, sha256))
            except ModelRefused as refusal:
                self._refused.add(sha256)
                self._on_refused("models")
                _log.error("model_refused", reason=refusal.detail)


def _production(models_dir: Path) -> str | None:
    try:
        pointer = model_files.production(models_dir)
    except ModelRefused as refusal:
        _log.error("model_refused", reason=refusal.detail)
        return None
    return None if pointer is None else pointer.sha256


class ReleaseFollower:
    """Follows the control topics on a thread of its own, for as long as the process lives.

    Attributes:
        is_current: every record that was there when it began to follow has been read.
    """

    def __init__(self, bootstrap: str, releases: Releases) -> None:
        self.is_current = False
        self._bootstrap = bootstrap
        self._releases = releases
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release-follower", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._releases.look_for_model()
            try:
                self._follow()
            except Unavailable:
                self._stopping.wait(_RETRY_S)  # Kafka is away, or the topics are not made yet

    def _follow(self) -> None:
        reader = ledger.consumer(self._bootstrap, eof=True)
        try:
            places = ledger.partitions_of(reader, _TOPICS)
            reader.assign(places)
            unread = {(place.topic, place.partition) for place in places}
            while not self._stopping.is_set():
                message = reader.poll(_POLL_S)
                if message is None:
                    self._releases.look_for_model()
                else:
                    self._take(message, unread)
                    self.is_current = not unread
        finally:
            reader.close()

    def _take(self, message: Message, unread: set[tuple[str, int]]) -> None:
        error = message.error()
        if error is None:
            self._releases.adopt(str(message.topic()), message.value())
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's own constant
            unread.discard((str(message.topic()), int(message.partition())))
        elif not error.retriable():
            raise Unavailable("kafka", error.str())
