"""Cross-validation in time and the choice of parameters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.tune import cross_validate, time_folds, tune

random = np.random.default_rng(4)
FEATURES = random.normal(size=(1_500, 3))
LABELS = FEATURES[:, 0] * FEATURES[:, 1] + 0.3 * random.normal(size=1_500) > 1
TIMES = random.integers(0, 10**6, 1_500)


@given(st.lists(st.integers(0, 20), min_size=6, max_size=60), st.integers(1, 4))
def test_every_fold_trains_on_the_past_and_tests_on_what_comes_next(times: list[int], folds: int) -> None:
    array = np.array(times)
    cut = time_folds(array, folds)
    assert len(cut) == folds
    for past, following in cut:
        if len(past) and len(following):
            assert array[past].max() < array[following].min()
    tested = np.concatenate([following for _, following in cut])
    assert sorted(tested.tolist() + cut[0][0].tolist()) == list(range(len(times)))


def test_a_model_that_can_see_the_pattern_scores_better() -> None:
    """An interaction of two features needs two cuts in a tree: stumps cannot see it, so they come second."""
    trials = tune(FEATURES, LABELS, TIMES, seed=1, candidates=[{"num_leaves": 2}, {"num_leaves": 8}], rounds=25, folds=3)
    assert [trial.parameters["num_leaves"] for trial in trials] == [8, 2]
    assert trials[0].mean > trials[1].mean
    assert [len(trial.average_precision) for trial in trials] == [3, 3]
    assert trials[0].parameters["max_bin"] == 4095


def test_a_fold_without_fraud_is_refused() -> None:
    with pytest.raises(ValueError, match="fold 1 has no fraud"):
        cross_validate(FEATURES, LABELS & (np.median(TIMES) < TIMES), TIMES, seed=1, rounds=2)
