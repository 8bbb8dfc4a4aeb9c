"""Putting a rule set or a model in force, or trying one: checked here, then sent on its control topic, where the job takes it over.

A record on a control topic reaches every shard of the job in its order and becomes part of its state; nothing restarts.  Who did it
stands in the audit log before.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.rules import RuleSet
from infra.application import change_log, codec_of, operator, rule_book
from infra.plan import Plan
from infra.scoring_job import models_dir
from serving import model_files
from serving.change_log import change_of
from serving.clock import now_ms
from serving.control_topics import ControlTopics
from serving.model import Model, load_model
from serving.model_files import OnTrial, Production
from serving.records import ModelVersion
from serving.rule_book import Release
from serving.rules_file import load_rules

__all__ = [
    "Promotion",
    "promote_model",
    "promote_rules",
    "published_models",
    "roll_back_model",
    "rules_in_force",
    "try_model",
    "withdraw_model",
]

_MODELS = "models"
# what the audit log calls a change of models
MODEL_SHADOWED, MODEL_ROLLED_OUT, MODEL_PROMOTED = "model.shadow", "model.rollout", "model.promote"
MODEL_ROLLED_BACK, MODEL_WITHDRAWN = "model.rollback", "model.withdraw"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What was put in force: ``version`` counts the records of its topic, ``identity`` is the hash that decisions will carry.

    They carry it for ``traffic_percentage`` of the cards.
    """

    topic: str
    version: str
    identity: str
    traffic_percentage: float = 100.0


def rules_in_force(plan: Plan) -> tuple[Release, RuleSet]:
    """The newest release and its rules; version 0 is the shipped set, when none was ever promoted."""
    book = rule_book(plan)
    return book.in_force, book.rules(book.in_force.rule_set_hash)


def promote_rules(plan: Plan, path: Path, *, author: str | None, traffic_percentage: float = 100.0) -> Promotion:
    """Check a rule file and put it in force, for a share of the cards where one is given; raises InvalidRules, Unavailable."""
    rules = load_rules(path, CATALOGUE.index)
    book, actor = rule_book(plan), operator(author)
    digest = book.draft(actor, rules).rule_set_hash
    made = book.promote(actor, digest) if traffic_percentage == 100.0 else book.roll_out(actor, digest, traffic_percentage)
    return Promotion("rules", str(made.version), digest, traffic_percentage)


def promote_model(plan: Plan, sha256: str, *, author: str | None = None) -> Promotion:
    """Load a published model to see that it can serve, then put it in force; raises ModelRefused, Unavailable."""
    return _release_model(plan, MODEL_PROMOTED, _loaded(models_dir(plan.layout), sha256).sha256, None, author)


def try_model(plan: Plan, sha256: str, traffic_percentage: float, *, author: str | None = None) -> Promotion:
    """Try a published model beside the one in production: it decides for a share of the cards, and is asked behind the other decisions.

    Raises:
        ModelRefused: it cannot serve.
        Unavailable: there is no such model, or none in production.
    """
    folder = models_dir(plan.layout)
    tried = OnTrial(_loaded(folder, sha256).sha256, traffic_percentage)
    return _release_model(plan, MODEL_ROLLED_OUT if traffic_percentage else MODEL_SHADOWED, _in_production(folder), tried, author)


def roll_back_model(plan: Plan, *, author: str | None = None) -> Promotion:
    """Take a rollout back to a shadow; without one, put the model before the one in production back; raises ModelRefused, Unavailable."""
    folder = models_dir(plan.layout)
    tried, pointer = model_files.on_trial(folder), model_files.production(folder)
    if tried is not None and tried.traffic_percentage > 0.0:
        shadow = OnTrial(_loaded(folder, tried.sha256).sha256, 0.0)
        return _release_model(plan, MODEL_ROLLED_BACK, _in_production(folder), shadow, author)
    if pointer is None or pointer.previous_sha256 is None:
        raise Unavailable("model", "no other was ever in production; what is tried beside it is withdrawn, not rolled back")
    return _release_model(plan, MODEL_ROLLED_BACK, _loaded(folder, pointer.previous_sha256).sha256, None, author)


def withdraw_model(plan: Plan, *, author: str | None = None) -> Promotion:
    """Let the model in production decide alone again, with nothing beside it; raises Unavailable."""
    return _release_model(plan, MODEL_WITHDRAWN, _in_production(models_dir(plan.layout)), None, author)


def _loaded(folder: Path, sha256: str) -> Model:
    matches = [digest for digest in model_files.published(folder) if digest.startswith(sha256)]
    if len(matches) != 1:
        raise Unavailable("model", f"{len(matches)} published models start with {sha256!r}")
    return load_model(folder, matches[0])


def _in_production(folder: Path) -> str:
    pointer = model_files.production(folder)
    if pointer is None:
        raise Unavailable("model", "none is in production")
    return pointer.sha256


def _release_model(plan: Plan, action: str, sha256: str, tried: OnTrial | None, author: str | None) -> Promotion:
    """Log a change, then make it: one that is interrupted between the two is in the log, and whoever repeats it is too."""
    folder, before = models_dir(plan.layout), model_files.production(models_dir(plan.layout))
    change = change_of(
        action,
        sha256 if tried is None else tried.sha256,
        before=None if before is None else before.sha256,
        after=sha256,
        body=None if tried is None else json.dumps(asdict(tried)),
    )
    change_log(plan).append(operator(author), lambda: change)
    model_files.promote(folder, sha256)
    path = folder / sha256 / "model.txt"
    challenger, traffic_percentage = (None, 0.0) if tried is None else (tried.sha256, tried.traffic_percentage)
    record = ModelVersion("fraud", sha256[:12], sha256, str(path), now_ms(), challenger, traffic_percentage)
    ControlTopics(plan.addresses.bootstrap_servers).send(_MODELS, codec_of(plan).encode_model(record))
    model_files.put_on_trial(folder, tried)
    return Promotion(_MODELS, record.version, challenger or sha256, 100.0 if tried is None else traffic_percentage)


def published_models(plan_home: Path) -> list[dict[str, Any]]:
    """Published models with their metrics; ``status`` is ``production``, ``testing`` or ``published``."""
    current, tried = model_files.production(plan_home), model_files.on_trial(plan_home)

    def status(digest: str) -> str:
        if current is not None and current.sha256 == digest:
            return "production"
        return "testing" if tried is not None and tried.sha256 == digest else "published"

    return [
        {
            "sha256": digest,
            "production": status(digest) == "production",
            "status": status(digest),
            "traffic_percentage": _traffic(digest, current, tried),
            "catalogue_version": manifest.catalogue_version,
            "metrics": json.loads(json.dumps(dict(manifest.metrics))),
        }
        for digest, manifest in sorted(model_files.published(plan_home).items())
    ]


def _traffic(digest: str, current: Production | None, tried: OnTrial | None) -> float:
    """Of how many percent of the cards a model decides."""
    away = 0.0 if tried is None else tried.traffic_percentage
    if current is not None and current.sha256 == digest:
        return 100.0 - away
    return away if tried is not None and tried.sha256 == digest else 0.0
