"""A past decision as people and programs get it: features beyond the catalogue included, by name."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from api.bodies import DecisionBody
from api.decisions import describe
from cli.decision import _print
from serving.records import Contribution, ExtraFeature
from tests import wire_samples as wire

EXTRAS = [ExtraFeature("card_distinct_merchant_37m", 3.0), ExtraFeature("card_zscore_amount_3d", math.nan)]


def test_features_beyond_the_catalogue_are_answered_by_name_and_null_where_missing() -> None:
    body = DecisionBody(**describe(wire.decision(extra_features=EXTRAS)))
    assert json.loads(body.model_dump_json())["extra_features"] == {"card_distinct_merchant_37m": 3.0, "card_zscore_amount_3d": None}
    assert DecisionBody(**describe(wire.decision(extra_features=[]))).extra_features == {}


def test_the_command_line_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    of_another_catalogue = {"catalogue_version": "older", "features": np.array([1.0, 7.5]), "contributions": [Contribution(1, 0.25)]}
    decision = wire.decision(extra_features=EXTRAS, **of_another_catalogue)
    _print(decision, describe(decision))
    printed = capsys.readouterr().out
    assert "card_distinct_merchant_37m" in printed
    assert "card_zscore_amount_3d" in printed
    assert "7.5" in printed  # a feature whose name is not known here has its number
    without = wire.decision(extra_features=[], **of_another_catalogue)
    _print(without, describe(without))
    assert "beyond the catalogue" not in capsys.readouterr().out
