"""Putting a rule set or a model in force: checked here, then sent on its control topic, where the running job takes it over.

A record on a control topic reaches every shard of the job in its order and becomes part of its state; nothing restarts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fraud.catalogue import CATALOGUE
from fraud.errors import Unavailable
from fraud.rules import RuleSet
from infra.application import codec_of, operator, rule_book
from infra.plan import Plan
from infra.scoring_job import models_dir
from serving import model_files
from serving.clock import now_ms
from serving.control_topics import ControlTopics
from serving.model import load_model
from serving.records import ModelVersion
from serving.rules_file import load_rules

__all__ = ["Promotion", "promote_model", "promote_rules", "published_models", "rules_in_force"]


@dataclass(frozen=True, slots=True)
class Promotion:
    """What was put in force: ``version`` counts the records of its topic, ``identity`` is the hash that decisions will carry."""

    topic: str
    version: str
    identity: str


def rules_in_force(plan: Plan) -> tuple[int, RuleSet]:
    """The rule set in force and its version; the shipped one, version 0, when none was ever promoted."""
    book = rule_book(plan)
    return book.in_force.version, book.rules(book.in_force.rule_set_hash)


def promote_rules(plan: Plan, path: Path, *, author: str | None) -> Promotion:
    """Check a rule file and put it in force; raises InvalidRules, Unavailable."""
    rules = load_rules(path, CATALOGUE.index)
    book, actor = rule_book(plan), operator(author)
    made = book.promote(actor, book.draft(actor, rules).rule_set_hash)
    return Promotion("rules", str(made.version), made.rule_set_hash)


def promote_model(plan: Plan, sha256: str) -> Promotion:
    """Load a published model to see that it can serve, then put it in force; raises ModelRefused, Unavailable."""
    folder = models_dir(plan.layout)
    matches = [digest for digest in model_files.published(folder) if digest.startswith(sha256)]
    if len(matches) != 1:
        raise Unavailable("model", f"{len(matches)} published models start with {sha256!r}")
    model = load_model(folder, matches[0])
    model_files.promote(folder, model.sha256)
    record = ModelVersion("fraud", model.sha256[:12], model.sha256, str(folder / model.sha256 / "model.txt"), now_ms())
    ControlTopics(plan.addresses.bootstrap_servers).send("models", codec_of(plan).encode_model(record))
    return Promotion("models", record.version, model.sha256)


def published_models(plan_home: Path) -> list[dict[str, Any]]:
    """Published models with their metrics, the one in production marked."""
    current = model_files.production(plan_home)
    return [
        {
            "sha256": digest,
            "production": current is not None and current.sha256 == digest,
            "catalogue_version": manifest.catalogue_version,
            "metrics": json.loads(json.dumps(dict(manifest.metrics))),
        }
        for digest, manifest in sorted(model_files.published(plan_home).items())
    ]
