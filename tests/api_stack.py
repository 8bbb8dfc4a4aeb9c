"""The servers that the API talks to, without Flink: Kafka, registry and Redis, and the API itself, each to be stopped and started."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from redis import Redis

from api.identity import Role
from api.schemas import ScoreRequest
from fraud.events import Transaction
from infra.api_access import Access
from infra.first_model import train_first_model
from infra.layout import Layout
from infra.plan import Plan, make_plan, save_plan
from infra.processes import identify, start, stop_groups
from infra.scoring_job import ip_hash_key_file, models_dir
from infra.servers import build_servers
from infra.settings import StackSettings
from infra.topics import create_topics
from serving import ledger, model_files
from serving.clock import now_ms
from serving.codec import Codec
from serving.enrich import Enricher
from serving.registry import HttpRegistry, register_all

NEEDED = ("kafka", "registry", "redis", "api")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: ``body`` as it came."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True)
class Published:
    """A record of the topic ``transactions``."""

    transaction: Transaction
    headers: dict[str, bytes]


class ApiStack:
    """A private set of servers in ``home``.

    Args:
        home: the state folder.
        environment: settings of the API beside those of the plan.
        buffered_events: how many the API keeps while Kafka is away.
    """

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None, *, buffered_events: int = 50) -> None:
        self._environment = environment or {}
        self._buffered_events = buffered_events
        layout = Layout(home)
        layout.create()
        self.plan: Plan = make_plan(layout, StackSettings.on_free_ports())
        save_plan(self.plan)
        self._servers = {server.name: server for server in build_servers(self.plan) if server.name in NEEDED}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.access = Access(layout)
        _, self.key = self.access.key_file.create("acme", "tests", Role.SERVICE)

    @property
    def url(self) -> str:
        return self.plan.addresses.api_url

    def train(self) -> str:
        """Put a small model in production; returns its SHA-256."""
        sha256 = self.train_another(seed=7)
        model_files.promote(models_dir(self.plan.layout), sha256)
        return sha256

    def train_another(self, seed: int = 8) -> str:
        """Publish a small model without putting it in force."""
        models, key = models_dir(self.plan.layout), ip_hash_key_file(self.plan.layout).read_bytes()
        return train_first_model(models, Enricher(key), say=lambda _text: None, start_ms=now_ms(), rows=8_000, seed=seed).sha256

    def up(self) -> None:
        """Start everything; topics included."""
        for name in NEEDED:
            self._spawn(name)
        for name in NEEDED[:-1]:
            self.wait(name)
        create_topics(self.plan.addresses.bootstrap_servers, partitions=2, retention_ms=3_600_000)
        self.mark_whole()
        self.wait("api")

    def _spawn(self, name: str) -> None:
        server = self._servers[name]
        server.folder.mkdir(parents=True, exist_ok=True)
        server.prepare()
        environment = {**server.environment, "FRAUDGUARD_API_TENANT_LIMITS": '{"acme": 1000000}'}
        environment |= {"FRAUDGUARD_API_IP_REQUESTS_PER_MIN": "1000000", "FRAUDGUARD_API_BUFFERED_EVENTS": str(self._buffered_events)}
        environment |= self._environment
        self._processes[name] = start(server.argv, environment=environment, folder=server.folder, log_file=self.log(name))

    def log(self, name: str) -> Path:
        return self.plan.layout.log_file(name)

    def wait(self, name: str, timeout_s: float = 90.0) -> None:
        server, process = self._servers[name], self._processes[name]
        begun, deadline = time.time(), time.monotonic() + timeout_s
        while (why := server.probe(begun)) is not None:
            assert process.poll() is None, self.log(name).read_text()[-3000:]
            assert time.monotonic() < deadline, f"{name}: {why}"
            time.sleep(0.1)

    def start(self, name: str) -> None:
        self._spawn(name)
        self.wait(name)

    def stop(self, name: str) -> None:
        """Kill a server as a crash would."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def mark_whole(self) -> None:
        """Say that the store has every state: what the job does when it has written them all (see ``serving.online_healing``)."""
        client = self.redis()
        client.set("fraudguard:health", f"whole {client.info('server')['run_id']}")

    def stop_politely(self, name: str) -> None:
        """Ask a server to end, and wait until it has."""
        process = self._processes.pop(name)
        process.terminate()
        process.wait(30)

    def redis(self) -> Redis:
        """A client of this stack's Redis."""
        return Redis.from_url(self.plan.addresses.redis_url)

    def down(self) -> None:
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            identity = identify(process.pid)
            if identity is not None:
                stop_groups([identity], grace_s=10, reap=lambda process=process: process.poll())  # type: ignore[misc]
            process.wait()

    @property
    def api_pid(self) -> int:
        return self._processes["api"].pid

    def ask(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None, key: str | None = None) -> Answer:
        """A request as a service of the tenant acme makes it."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        for name, value in {"Content-Type": "application/json", "X-API-Key": key or self.key, **(headers or {})}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), dict(error.headers))

    def codec(self) -> Codec:
        """With the ids of this stack's registry."""
        registry = HttpRegistry(self.plan.addresses.registry_url, timeout_s=20.0)
        return Codec(register_all(registry), registry.schema_by_id)

    def published(self) -> list[Published]:
        """Every decided transaction on the topic, each partition in order."""
        codec = self.codec()
        messages = ledger.read_to_end(self.plan.addresses.bootstrap_servers, (ledger.TRANSACTIONS,))
        return [Published(codec.decode_transaction(message.value()), dict(message.headers() or [])) for message in messages]

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float = 30.0) -> float:
        """Wait for something of the API to become true; returns the seconds that it took."""
        begun_s = time.monotonic()
        while not is_so():
            assert time.monotonic() - begun_s < timeout_s, what
            time.sleep(0.05)
        return time.monotonic() - begun_s

    def sample(self, name: str, **labels: str) -> float:
        """A sample of the API's metrics; 0 where there is none."""
        wanted = {(one.name, frozenset(one.labels.items())): one.value for one in self.samples()}
        return wanted.get((name, frozenset(labels.items())), 0.0)

    def samples(self) -> list[Sample]:
        text = self.ask("/metrics").body.decode()
        return [one for family in text_string_to_metric_families(text) for one in family.samples]


_numbers = itertools.count(1)


def question(**changed: Any) -> dict[str, Any]:
    """The body of a request, of a transaction of its own."""
    values = {
        "transaction_id": f"q-{next(_numbers)}",
        "card_id": "c-1",
        "merchant_id": "m-1",
        "amount_minor": 1_250,
        "currency": "EUR",
        "event_time_ms": now_ms() - 1_000,
        "user_id": "u-1",
        "device_id": "d-1",
        "ip_address": "8.8.8.8",
        "country": "FR",
    }
    return values | changed


def score_request(transaction_id: str, **changed: Any) -> ScoreRequest:
    """The same by the client's own class, with no more than it must have."""
    values = {
        "card_id": "c-1",
        "merchant_id": "m-1",
        "amount_minor": 4_200,
        "currency": "EUR",
        "event_time_ms": now_ms(),
    }
    return ScoreRequest(transaction_id=transaction_id, **(values | changed))
