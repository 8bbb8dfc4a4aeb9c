"""Training: the split in time, calibration, measures, and a model that is published and serves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from serving.anomaly import AnomalyForest
from serving.model import load_model
from serving.model_files import ModelRefused, published
from training.anomaly import CONTAMINATION, export_forest, fit_forest
from training.calibrate import fit_platt
from training.metrics import evaluate, expected_calibration_error
from training.train import Split, TrainingReport, split_by_time, train

NAMES = ("amount", "speed", "nothing", "lat", "lon", "absent")
INDEX = {name: column for column, name in enumerate(NAMES)}
ROUNDS = 40


def history(rows: int = 4_000, seed: int = 7) -> dict[str, Any]:
    """A small problem: fraud is likelier with amount and speed, speed is often missing, two columns say nothing."""
    random = np.random.default_rng(seed)
    features = np.stack(
        [
            random.lognormal(3, 1, rows),
            np.where(random.random(rows) < 0.3, np.nan, random.exponential(300, rows)),
            np.full(rows, 5.0),
            random.normal(48, 5, rows),
            np.where(random.random(rows) < 0.1, np.nan, random.normal(2, 5, rows)),
            np.full(rows, np.nan),
        ],
        axis=1,
    )
    log_odds = 1.2 * (np.log(features[:, 0]) - 4.5) + np.nan_to_num(features[:, 1]) / 300 - 2
    labels = random.random(rows) < 1 / (1 + np.exp(-log_odds))
    return {"features": features, "feature_names": NAMES, "labels": labels, "times_ms": random.integers(0, 10**9, rows)}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> TrainingReport:
    return train(**history(), out_dir=tmp_path_factory.mktemp("models"), seed=3, catalogue_version="v1", rounds=ROUNDS)


def test_the_model_ranks_better_than_chance_on_rows_it_never_saw(report: TrainingReport) -> None:
    assert report.metrics["auc"] > 0.75
    assert report.metrics["average_precision"] > 0.4


def test_every_promised_measure_is_reported(report: TrainingReport) -> None:
    assert {"auc", "average_precision", "recall_at_fpr_2pct", "recall", "fpr", "f1", "brier", "ece", "threshold"} <= set(report.metrics)


def test_calibration_does_not_harm(report: TrainingReport) -> None:
    assert report.metrics["ece"] < 0.06
    assert report.metrics["brier"] <= report.metrics["brier_uncalibrated"] + 0.005


def test_the_manifest_says_how_the_model_came_about(report: TrainingReport) -> None:
    manifest = report.manifest
    assert manifest.catalogue_version == "v1"
    assert manifest.hyper_parameters["max_bin"] == 4095
    assert (manifest.hyper_parameters["rounds"], manifest.hyper_parameters["seed"]) == (ROUNDS, 3)
    assert sum(manifest.training["rows"].values()) == 4_000
    assert len(manifest.training["data_sha256"]) == 64


def test_columns_that_never_vary_and_raw_coordinates_stay_out_of_the_classifier(report: TrainingReport) -> None:
    assert report.manifest.feature_names == ("amount", "speed")
    assert report.manifest.anomaly is not None
    assert report.manifest.anomaly.feature_names == ("amount", "lat", "lon")


def test_the_published_model_serves(report: TrainingReport) -> None:
    model = load_model(report.folder.parent, report.sha256, INDEX)
    features = history()["features"]
    _, probability = model.predict(features)
    labels = history()["labels"]
    assert probability[labels].mean() > 2 * probability[~labels].mean()
    assert model.anomaly is not None
    score, flag = model.anomaly.evaluate(features)
    assert np.array_equal(np.isnan(score), np.isnan(features[:, 4]))
    assert flag.mean() == pytest.approx(CONTAMINATION, abs=0.02)


def test_the_same_arguments_give_the_same_files(report: TrainingReport, tmp_path: Path) -> None:
    again = train(**history(), out_dir=tmp_path, seed=3, catalogue_version="v1", rounds=ROUNDS)
    assert again.sha256 == report.sha256
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == {
        path.name: path.read_bytes() for path in report.folder.iterdir()
    }


def test_publishing_other_calibration_under_the_same_trees_is_refused(report: TrainingReport) -> None:
    """The folder is named by the trees alone, so what lies beside them must never change."""
    before = published(report.folder.parent)
    with pytest.raises(ModelRefused, match="another manifest"):
        train(**history(), out_dir=report.folder.parent, seed=3, catalogue_version="v2", rounds=ROUNDS)
    assert published(report.folder.parent) == before


def test_without_coordinates_there_is_no_anomaly_forest(tmp_path: Path) -> None:
    data = history(1_500)
    data["features"][:, 3] = np.nan
    assert train(**data, out_dir=tmp_path, seed=3, catalogue_version="v1", rounds=5).manifest.anomaly is None


def test_the_newest_rows_are_tested_on_and_an_instant_is_never_split() -> None:
    times = np.array([5, 1, 2, 2, 2, 2, 3, 9, 8, 7])
    parts = split_by_time(times, Split(0.4, 0.3))
    assert [times[rows].tolist() for rows in parts.values()] == [[1], [2, 2, 2, 2, 3, 5], [7, 8, 9]]
    assert [part.tolist() for part in split_by_time(times[:0], Split()).values()] == [[], [], []]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels": np.zeros(4_000, dtype=np.bool_)}, "the train part"),
        ({"labels": np.zeros(4_000)}, "labels must be bool"),
        ({"labels": np.zeros(3_999, dtype=np.bool_)}, "4000 rows, but labels"),
        ({"feature_names": ("amount",)}, "do not have the 1 columns"),
        ({"features": np.ones((4_000, 6))}, "no feature varies"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        train(**{**history(), **change}, out_dir=tmp_path, seed=3, catalogue_version="v1", rounds=5)
    assert not list(tmp_path.iterdir())


def test_a_split_leaves_something_to_test_on() -> None:
    with pytest.raises(ValueError, match="leave rows to test on"):
        Split(0.8, 0.2)


# --- calibration ----------------------------------------------------------------------------------------------------------


def test_platt_finds_the_scaling_that_made_the_labels() -> None:
    random = np.random.default_rng(1)
    raw = random.normal(0, 2, 100_000)
    fitted = fit_platt(raw, random.random(100_000) < 1 / (1 + np.exp(-(0.7 * raw - 1.5))))
    assert [fitted.a, fitted.b] == pytest.approx([0.7, -1.5], abs=0.03)


def test_platt_stays_finite_where_the_classes_do_not_overlap() -> None:
    fitted = fit_platt(np.array([-1000.0, -999.0, 999.0, 1000.0]), np.array([False, False, True, True]))
    assert 0 < fitted.a < 1


@pytest.mark.parametrize("labels", [[True, True, False, False], [False] * 4, [True] * 4])
def test_platt_refuses_what_cannot_be_calibrated(labels: list[bool]) -> None:
    with pytest.raises(ValueError, match=r"calibrat"):
        fit_platt(np.array([-2.0, -1.0, 1.0, 2.0]), np.array(labels))


# --- measures -------------------------------------------------------------------------------------------------------------


def test_measures_of_a_case_worked_by_hand() -> None:
    probability = np.array([0.9, 0.8, 0.6, 0.4, 0.2, 0.1])
    measured = evaluate(probability, np.array([True, False, True, True, False, False]))
    assert measured["auc"] == pytest.approx(7 / 9)
    assert measured["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert (measured["recall"], measured["precision"], measured["fpr"]) == (2 / 3, 2 / 3, 1 / 3)
    assert measured["f1"] == pytest.approx(2 / 3)
    assert (measured["recall_at_fpr_2pct"], measured["threshold_at_fpr_2pct"]) == (1 / 3, 0.9)
    assert measured["brier"] == pytest.approx((0.01 + 0.64 + 0.16 + 0.36 + 0.04 + 0.01) / 6)


def test_recall_at_two_percent_is_zero_when_the_highest_score_is_honest() -> None:
    measured = evaluate(np.array([0.9, 0.8]), np.array([False, True]))
    assert (measured["recall_at_fpr_2pct"], measured["threshold_at_fpr_2pct"]) == (0.0, 1.0)


def test_the_calibration_error_weighs_each_bin_by_its_rows() -> None:
    probability, labels = np.array([0.1, 0.1, 0.1, 1.0]), np.array([False, False, True, True])
    assert expected_calibration_error(probability, labels) == pytest.approx(0.75 * (1 / 3 - 0.1))


# --- anomaly forest -------------------------------------------------------------------------------------------------------


def points(rows: int, seed: int = 5) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    return np.stack([random.lognormal(9, 1, rows), random.normal(48, 5, rows), random.normal(2, 5, rows)], axis=1)


@pytest.mark.parametrize("samples", [256, 20, 2])
def test_the_exported_forest_decides_as_scikit_learn_does(samples: int) -> None:
    reference = IsolationForest(n_estimators=50, max_samples=samples, contamination=CONTAMINATION, random_state=1).fit(points(1_000))
    asked = np.concatenate([points(3_000, seed=6), points(50) * 100, points(1_000)])
    score, flag = export_forest(reference).evaluate(asked)
    assert np.max(np.abs((-score - reference.offset_) - reference.decision_function(asked))) < 1e-9
    assert np.array_equal(flag, reference.predict(asked) == -1)


def test_the_forest_flags_a_tenth_of_what_it_was_trained_on_and_the_far_away() -> None:
    forest = fit_forest(points(3_000), seed=1)
    assert forest.evaluate(points(3_000))[1].mean() == pytest.approx(CONTAMINATION, abs=0.01)
    assert forest.evaluate(np.array([[1e7, -48.0, 170.0]]))[1].tolist() == [True]


def test_the_forest_survives_its_bytes_and_the_bytes_are_reproducible() -> None:
    forest = fit_forest(points(500), seed=1)
    data = forest.to_bytes()
    asked = points(200, seed=9)
    assert np.array_equal(AnomalyForest.from_bytes(data).evaluate(asked)[0], forest.evaluate(asked)[0])
    assert fit_forest(points(500), seed=1).to_bytes() == data


def test_a_forest_trains_on_whole_rows_only() -> None:
    rows = points(500)
    with_holes = np.concatenate([rows, np.full((100, 3), np.nan)])
    assert fit_forest(with_holes, seed=1).to_bytes() == fit_forest(rows, seed=1).to_bytes()
    with pytest.raises(ValueError, match="no row"):
        fit_forest(np.full((3, 3), np.nan), seed=1)
