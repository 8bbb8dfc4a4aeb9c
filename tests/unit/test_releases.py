"""What control records put in force in the API, and what they try beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from api.releases import Releases
from fraud.catalogue import CATALOGUE
from fraud.rules import RuleSet
from serving.model_files import Calibration, Manifest, publish
from serving.records import ModelVersion, RuleSetVersion
from tests.scoring_world import CODEC, RULES
from tests.unit.test_model import train_text

HALF = RuleSet(RULES.rules[::2], CATALOGUE.index)
TRIED = RuleSetVersion(2, RULES.hash, RULES.to_json(), "ana", 1, HALF.hash, HALF.to_json(), 12.5)


class _Api:
    def __init__(self, models_dir: Path) -> None:
        self.refused: list[str] = []
        self.releases = Releases(CODEC, models_dir, HALF.to_json(), on_refused=self.refused.append)

    def rules(self, version: RuleSetVersion) -> bool:
        return self.releases.adopt("rules", CODEC.encode_rule(version))

    def model(self, sha256: str, tried: str | None = None, percent: float = 0.0) -> bool:
        return self.releases.adopt("models", CODEC.encode_model(ModelVersion("fraud", "1", sha256, "", 1, tried, percent)))

    def tried_rules(self) -> tuple[str, float] | None:
        tried = self.releases.versions.rules_challenger
        return None if tried is None else (tried.version.hash, tried.traffic_percentage)


def test_a_record_brings_what_is_in_force_and_what_is_tried_and_the_next_one_replaces_both(tmp_path: Path) -> None:
    api = _Api(tmp_path)
    assert api.rules(TRIED)
    assert api.releases.versions.rules is not None
    assert (api.releases.versions.rules.hash, api.tried_rules()) == (RULES.hash, (HALF.hash, 12.5))
    assert api.rules(RuleSetVersion(3, HALF.hash, HALF.to_json(), "ana", 1))
    assert (api.releases.versions.rules.hash, api.tried_rules()) == (HALF.hash, None)
    assert api.refused == []


@pytest.mark.parametrize("broken", [{"challenger_body": "{}"}, {"traffic_percentage": 100.0}, {"traffic_percentage": -1.0}], ids=str)
def test_a_challenger_that_cannot_be_used_is_refused_and_the_rules_are_in_force(tmp_path: Path, broken: dict[str, object]) -> None:
    api = _Api(tmp_path)
    assert api.rules(TRIED)
    assert not api.rules(replace(TRIED, version=3, hash=HALF.hash, body=HALF.to_json(), **broken))  # type: ignore[arg-type]
    assert api.releases.versions.rules is not None
    assert (api.releases.versions.rules.hash, api.tried_rules(), api.refused) == (HALF.hash, None, ["rules"])


def test_a_model_that_is_not_there_is_not_tried_and_one_that_is_decides_for_its_share(tmp_path: Path) -> None:
    names = tuple(CATALOGUE.names[:20])
    manifest = Manifest(feature_names=names, catalogue_version=CATALOGUE.version, calibration=Calibration(4.0, -5.5))
    live, tried = (publish(tmp_path, train_text(seed, names), manifest) for seed in (1, 2))
    api = _Api(tmp_path)
    assert api.model(live, tried, 30.0)
    challenger = api.releases.versions.model_challenger
    assert challenger is not None
    assert (challenger.version.sha256, challenger.traffic_percentage) == (tried, 30.0)
    assert not api.model(tried, "0" * 64, 30.0)
    assert api.releases.versions.model is not None
    assert (api.releases.versions.model.sha256, api.releases.versions.model_challenger, api.refused) == (tried, None, ["models"])
