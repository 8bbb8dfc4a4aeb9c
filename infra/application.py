"""FraudGuard on the local stack: model, feature store, schemas and the scoring job on top of the servers.

``bring_up`` is what ``./fraudguard up`` does; every step looks first whether it is done already.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from feature_repo import repository
from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from infra import scoring_job
from infra.house import ensure_schema
from infra.plan import Plan
from infra.scoring_job import JobState
from infra.stack import Stack, UpResult
from serving.change_log import Actor, ChangeLog
from serving.clock import now_ms
from serving.codec import Codec
from serving.enrich import Enricher
from serving.registry import HttpRegistry, register_all
from serving.rule_book import RuleBook

__all__ = ["Application", "bring_up", "change_log", "codec_of", "enricher_of", "operator", "rule_book"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Application:
    """What is up: the servers, the model in production, the job."""

    stack: UpResult
    model_sha256: str
    job: JobState


def bring_up(stack: Stack, say: Say) -> Application:
    """Start what is not running: servers, first model, feature store, scoring job."""
    from infra.first_model import ensure_model  # noqa: PLC0415 - what trains loads scikit-learn and pandas, which no other command needs

    # before the servers, since training wants both cores
    model = ensure_model(scoring_job.models_dir(stack.layout), lambda: enricher_of(stack), say)
    servers = stack.up(say)
    if stack.addresses.clickhouse_url is not None:
        for name in ensure_schema(stack.plan):
            say(f"ClickHouse: migration {name}")
    with ThreadPoolExecutor(1) as beside:
        feature_store = beside.submit(ensure_feature_store, stack, say)  # a process of its own, for seconds, and the job asks nothing of it
        rule_book(stack.plan).keep_shipped(operator("fraudguard"))  # or decisions made with them could not be replayed by a later program
        job = scoring_job.ensure_running(stack.plan, say)
        feature_store.result()
    return Application(servers, model, job)


def ensure_feature_store(stack: Stack, say: Say) -> None:
    """``feast apply``, once for each version of the catalogue and each Redis."""
    plan = stack.plan
    stamp = stack.layout.home / "feast" / "applied"
    wanted = f"{CATALOGUE.version} {plan.addresses.redis_url}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say("applying the feature store's definitions (feast apply)")
    try:
        repository.apply(stack.layout.home, plan.addresses.redis_url)
    except RuntimeError as error:
        raise Unavailable("feast", str(error)) from error
    stamp.write_text(wanted)


def codec_of(plan: Plan) -> Codec:
    """A codec with the ids of the stack's registry."""
    registry = HttpRegistry(plan.addresses.registry_url, timeout_s=10.0)
    return Codec(register_all(registry), registry.schema_by_id)


def change_log(plan: Plan) -> ChangeLog:
    """The audit log of a stack; raises Unavailable."""
    log = ChangeLog(plan.addresses.bootstrap_servers, codec_of(plan), now_ms)
    log.refresh()
    return log


def rule_book(plan: Plan) -> RuleBook:
    """The rules of a stack, as everybody who has changed them left them; raises Unavailable."""
    codec, bootstrap = codec_of(plan), plan.addresses.bootstrap_servers
    book = RuleBook(ChangeLog(bootstrap, codec, now_ms), codec, bootstrap)
    book.refresh()
    return book


def operator(author: str | None) -> Actor:
    """A person at the machine itself."""
    return Actor("default", author or "operator", "admin")


def enricher_of(stack: Stack) -> Enricher:
    """An enricher with the installation's own key, so that hashes agree with the stream's."""
    return Enricher(scoring_job.ip_hash_key_file(stack.layout).read_bytes())
