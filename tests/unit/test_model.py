"""The model at serving time: the fast path against ``Booster.predict``, contributions, calibration, and holding one in force."""

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fraud.errors import Unavailable
from serving.anomaly import AnomalyForest
from serving.bit_trees import BitTrees, pack_bit_trees
from serving.booster import LibraryBooster
from serving.model import Model, ModelManager, ModelRefused, load_model
from serving.model_files import AnomalyFile, Calibration, Manifest, publish, read_files
from serving.tree_shap import ShapTables, tabulate
from serving.tree_text import Tree

# The vector has more features than the model, and in another order.
FEATURES = {name: column for column, name in enumerate(("zip", "f3", "f0", "spare", "f2", "f1", "f4"))}
NAMES = ("f0", "f1", "f2", "f3", "f4")
MANIFEST = Manifest(feature_names=NAMES, catalogue_version="v1", calibration=Calibration(1.3, -0.4))


def train_text(
    seed: int = 1, names: tuple[str, ...] = NAMES, rounds: int = 30, holes: float = 0.2, category: bool = False, **more: Any
) -> str:
    """Train a small booster on data with holes and return its text."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(800, len(names)))
    rows[random.random(rows.shape) < holes] = np.nan
    if category:
        rows[:, 0] = random.integers(0, 9, 800)
    labels = np.nan_to_num(rows[:, 0]) % 4 + np.nan_to_num(rows[:, 1]) * np.nan_to_num(rows[:, 2]) + random.normal(size=800) > 0.5
    parameters = {"objective": "binary", "num_leaves": 8, "min_data_in_leaf": 5, "num_threads": 1, "verbosity": -1, "seed": seed}
    parameters |= more
    categories = [0] if category else "auto"
    data = lightgbm.Dataset(rows, labels.astype(float), feature_name=list(names), categorical_feature=categories, params=parameters)
    return str(lightgbm.train(parameters, data, rounds).model_to_string())


TEXT, OTHER_TEXT = train_text(), train_text(seed=2)


def stump_forest() -> AnomalyForest:
    """One tree with one cut: a value of the second column above 10 is isolated at depth 1, the others are not."""
    return AnomalyForest(
        roots=np.array([0], dtype=np.int32),
        feature=np.array([1, 0, 0], dtype=np.int32),
        threshold=np.array([10.0, 0.0, 0.0]),
        children=np.array([[1, 2], [1, 1], [2, 2]], dtype=np.int32),
        path_length=np.array([0.0, 8.0, 1.0]),
        depth=1,
        normaliser=4.0,
        flag_above=0.5,
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with two published models, of which none is promoted."""
    publish(tmp_path, TEXT, MANIFEST)
    publish(tmp_path, OTHER_TEXT, MANIFEST)
    return tmp_path


@pytest.fixture(scope="module", params=["bit_trees", "library"])
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Model:
    """Return the same model on each of the two paths that may score it."""
    folder = tmp_path_factory.mktemp("models")
    files = read_files(folder, publish(folder, TEXT, MANIFEST))
    model = Model(files, FEATURES, library_only=request.param == "library")
    assert model.path == request.param
    assert model.shap_path == ("tables" if model.path == "bit_trees" else "library")
    return model


def digest_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def vectors(rows: int, seed: int = 3) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, len(FEATURES))) * 2
    matrix[random.random(matrix.shape) < 0.3] = np.nan
    return matrix


def reference(matrix: NDArray[np.float64], **how: Any) -> NDArray[np.float64]:
    """What LightGBM's own Python interface says about the same events."""
    columns = [FEATURES[name] for name in NAMES]
    return np.asarray(lightgbm.Booster(model_str=TEXT).predict(matrix[:, columns], num_threads=1, **how))


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 25, 400])
def test_single_batch_and_booster_agree_to_the_last_bit(model: Model, rows: int) -> None:
    matrix = vectors(rows)
    raw, probability = model.predict(matrix)
    assert raw.tolist() == reference(matrix, raw_score=True).tolist()
    alone = [model.predict_single(vector) for vector in matrix]
    assert (raw.tolist(), probability.tolist()) == ([a for a, _ in alone], [b for _, b in alone])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.floats(allow_infinity=True, allow_nan=True), min_size=7, max_size=7), min_size=1, max_size=10))
def test_any_values_are_scored_as_booster_scores_them(model: Model, rows: list[list[float]]) -> None:
    matrix = np.array(rows, dtype=np.float64)
    assert model.predict(matrix)[0].tolist() == reference(matrix, raw_score=True).tolist()


def test_a_view_that_is_not_contiguous_is_scored_like_its_copy(model: Model) -> None:
    matrix = vectors(40)
    assert model.predict(matrix[::2])[0].tolist() == model.predict(matrix[::2].copy())[0].tolist()
    assert model.predict(np.asfortranarray(matrix[:3]))[0].tolist() == model.predict(matrix[:3])[0].tolist()


def test_the_calibration_is_platts(model: Model) -> None:
    raw, probability = model.predict(vectors(50))
    assert probability == pytest.approx(1 / (1 + np.exp(-(1.3 * raw - 0.4))), abs=1e-15)
    assert (model.calibrate(-1e6), model.calibrate(1e6)) == (0.0, 1.0)


def test_contributions_sum_to_the_raw_score_and_equal_lightgbms(model: Model) -> None:
    matrix = vectors(30)
    table = model.contributions(matrix)
    assert table.shape == (30, len(NAMES) + 1)
    assert table.sum(axis=1) == pytest.approx(model.predict(matrix)[0], abs=1e-9)
    assert table.tolist() == reference(matrix, pred_contrib=True).tolist()
    assert model.contributions(matrix[3:4]).tolist() == table[3:4].tolist()


def test_top_contributions_are_the_largest_by_size_with_the_values_of_their_features(model: Model) -> None:
    matrix = vectors(5)
    table = model.contributions(matrix)
    for row, listed in enumerate(model.top_contributions(matrix, 2)):
        sizes = [abs(item.contribution) for item in listed]
        assert sizes == sorted(np.abs(table[row, :-1]), reverse=True)[:2]
        for item in listed:
            assert item.contribution == table[row, NAMES.index(item.feature)]
            assert np.array_equal(item.value, matrix[row, FEATURES[item.feature]], equal_nan=True)


def test_the_columns_say_where_the_models_inputs_stand_in_the_vector(model: Model) -> None:
    assert model.columns.tolist() == [2, 5, 4, 1, 6]


def test_an_empty_batch_is_a_batch(model: Model) -> None:
    raw, probability = model.predict(np.empty((0, 7)))
    assert (raw.shape, probability.shape) == ((0,), (0,))
    assert model.contributions(np.empty((0, 7))).shape == (0, 6)


@pytest.mark.parametrize("shape", [(3, 6), (9, 8), (7,)])
def test_a_matrix_of_another_catalogue_is_a_bug_and_says_so(model: Model, shape: tuple[int, ...]) -> None:
    for ask in (model.predict, model.contributions):
        with pytest.raises(ValueError, match="feature vectors have shape"):
            ask(np.zeros(shape))
    with pytest.raises(ValueError, match="a feature vector has shape"):
        model.predict_single(np.zeros(6))


def test_threads_do_not_disturb_each_other(model: Model) -> None:
    """Each thread has its own input row: shared, they would overwrite one another between write and call."""
    matrix = vectors(300)
    expected = reference(matrix, raw_score=True).tolist()
    wrong: list[int] = []

    def score_all(offset: int) -> None:
        for step in range(1_500):
            row = (offset + step) % 300
            if model.predict_single(matrix[row])[0] != expected[row]:
                wrong.append(row)

    threads = [threading.Thread(target=score_all, args=(offset * 61,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- the two paths ----------------------------------------------------------------------------------------------------------


def load_text(folder: Path, text: str) -> Model:
    return load_model(folder, publish(folder, text, MANIFEST), FEATURES)


@pytest.mark.parametrize(
    ("how", "shap_path"),
    [
        ({"num_leaves": 64, "min_data_in_leaf": 1, "rounds": 5}, "library"),  # too deep for tables
        ({"num_leaves": 30, "max_depth": 8, "min_data_in_leaf": 1, "rounds": 8}, "tables"),  # a feature comes many times on a path
        ({"num_leaves": 16, "max_depth": 9, "rounds": 40}, "tables"),
        ({"num_leaves": 2}, "tables"),
        ({"holes": 0.0}, "tables"),
        ({"use_missing": False}, "tables"),
        (
            {"max_bin": 4095, "min_data_in_bin": 1, "learning_rate": 0.03, "bagging_fraction": 0.8, "bagging_freq": 1, "rounds": 120},
            "tables",
        ),
        ({"min_data_in_leaf": 5_000, "rounds": 3}, "library"),  # no tree has a cut
        ({"boosting": "dart"}, "tables"),
        ({"monotone_constraints": [1, 0, 0, 0, 0]}, "tables"),
    ],
)
def test_models_of_many_shapes_score_and_explain_like_booster(how: dict[str, Any], shap_path: str, tmp_path: Path) -> None:
    text = train_text(**how)
    loaded = load_text(tmp_path, text)
    matrix = np.concatenate([vectors(300), np.full((1, 7), np.nan), np.zeros((1, 7)), np.full((1, 7), np.inf)])
    columns = [FEATURES[name] for name in NAMES]
    booster = lightgbm.Booster(model_str=text)
    expected = booster.predict(matrix[:, columns], raw_score=True, num_threads=1)
    assert (loaded.path, loaded.shap_path) == ("bit_trees", shap_path)
    assert loaded.predict(matrix)[0].tolist() == expected.tolist()
    assert loaded.contributions(matrix).tolist() == booster.predict(matrix[:, columns], pred_contrib=True, num_threads=1).tolist()


@pytest.mark.parametrize(
    "how",
    [
        {"num_leaves": 100, "min_data_in_leaf": 1, "rounds": 5},
        {"zero_as_missing": True},
        {"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1},
        {"category": True, "rounds": 5},
    ],
)
def test_models_without_such_a_form_are_scored_by_the_library(how: dict[str, Any], tmp_path: Path) -> None:
    text = train_text(**how)
    loaded = load_text(tmp_path, text)
    columns = [FEATURES[name] for name in NAMES]
    expected = lightgbm.Booster(model_str=text).predict(vectors(30)[:, columns], raw_score=True, num_threads=1)
    assert (loaded.path, loaded.shap_path) == ("library", "library")
    assert loaded.predict(vectors(30))[0].tolist() == expected.tolist()


def test_a_model_that_cannot_be_explained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="not implemented for linear trees"):
        load_text(tmp_path, train_text(linear_tree=True, rounds=5))


def test_a_fast_form_that_differs_in_one_leaf_is_not_used(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The proof on load has teeth: with one leaf moved by one unit in the last place the library scores instead."""

    def slightly_wrong(trees: Sequence[Tree], columns: NDArray[np.intp]) -> BitTrees | None:
        packed = pack_bit_trees(trees, columns)
        assert packed is not None
        numbers = packed.numbers.copy()
        numbers[-1] = np.nextafter(numbers[-1], np.inf) * (1 + 1e-12)
        return replace(packed, numbers=numbers)

    monkeypatch.setattr("serving.model.pack_bit_trees", slightly_wrong)
    loaded = load_text(tmp_path, TEXT)
    assert loaded.path == "library"
    assert loaded.predict(vectors(20))[0].tolist() == model.predict(vectors(20))[0].tolist()


def test_tables_that_differ_in_the_last_place_are_not_used(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def slightly_wrong(trees: Sequence[Tree], columns: NDArray[np.intp], base: float) -> ShapTables | None:
        tables = tabulate(trees, columns, base)
        assert tables is not None
        return replace(tables, cells=tables.cells * (1 + 1e-15))

    monkeypatch.setattr("serving.model.tabulate", slightly_wrong)
    loaded = load_text(tmp_path, TEXT)
    assert (loaded.path, loaded.shap_path) == ("bit_trees", "library")
    assert loaded.contributions(vectors(20)).tolist() == model.contributions(vectors(20)).tolist()


# --- loading and refusing ---------------------------------------------------------------------------------------------------


def test_a_model_for_features_that_are_not_there_is_refused(models: Path) -> None:
    with pytest.raises(ModelRefused, match="features that do not exist here: f4"):
        load_model(models, digest_of(TEXT), {name: i for i, name in enumerate(("f0", "f1", "f2", "f3"))})


def test_a_text_that_lightgbm_cannot_read_is_refused(tmp_path: Path) -> None:
    digest = publish(tmp_path, "not a model", MANIFEST)
    with pytest.raises(ModelRefused, match="LightGBM cannot read it"):
        load_model(tmp_path, digest, FEATURES)


def test_a_manifest_that_names_other_features_is_refused(tmp_path: Path) -> None:
    digest = publish(tmp_path, TEXT, replace(MANIFEST, feature_names=("f1", "f0", "f2", "f3", "f4")))
    with pytest.raises(ModelRefused, match="name different features"):
        load_model(tmp_path, digest, FEATURES)


def test_the_anomaly_forest_reads_its_columns_of_the_vector(tmp_path: Path) -> None:
    forest = stump_forest().to_bytes()
    manifest = replace(MANIFEST, anomaly=AnomalyFile(sha256(forest).hexdigest(), ("zip", "spare")))
    model = load_model(tmp_path, publish(tmp_path, TEXT, manifest, forest), FEATURES)
    matrix = np.zeros((4, 7))
    matrix[:, FEATURES["spare"]] = [10.0, 10.5, np.nan, -3.0]
    assert model.anomaly is not None
    score, flag = model.anomaly.evaluate(matrix)
    assert flag.tolist() == [False, True, False, False]
    assert score[[0, 1, 3]].tolist() == [0.25, 2**-0.25, 0.25]
    assert math.isnan(score[2])


@pytest.mark.parametrize(
    "damage",
    [
        {"children": np.array([[1, 3], [1, 1], [2, 2]], dtype=np.int32)},
        {"children": np.array([[-1, 2], [1, 1], [2, 2]], dtype=np.int32)},
        {"children": np.array([1, 2, 2], dtype=np.int32)},
        {"depth": 1 << 40},
        {"depth": -1},
        {"roots": np.array([-1], dtype=np.int32)},
        {"roots": np.array([], dtype=np.int32)},
        {"feature": np.array([-1, 0, 0], dtype=np.int32)},
        {"threshold": np.array([1.0])},
        {"normaliser": 0.0},
    ],
)
def test_a_forest_that_a_walk_could_leave_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused, match="damaged"):
        AnomalyForest.from_bytes(replace(stump_forest(), **damage).to_bytes())


@pytest.mark.parametrize("data", [b"", b"PK", stump_forest().to_bytes()[:-40]])
def test_bytes_that_are_no_forest_are_refused(data: bytes) -> None:
    with pytest.raises(ModelRefused, match="cannot be read"):
        AnomalyForest.from_bytes(data)


def test_a_forest_that_reads_more_columns_than_named_is_refused(tmp_path: Path) -> None:
    forest = stump_forest().to_bytes()
    manifest = replace(MANIFEST, anomaly=AnomalyFile(sha256(forest).hexdigest(), ("zip",)))
    with pytest.raises(ModelRefused, match="more columns"):
        load_model(tmp_path, publish(tmp_path, TEXT, manifest, forest), FEATURES)
    with pytest.raises(ValueError, match="do not fit the forest"):
        stump_forest().evaluate(np.zeros((2, 1)))


# --- the one in force -------------------------------------------------------------------------------------------------------


def test_without_a_model_the_manager_is_unavailable_and_says_why(tmp_path: Path) -> None:
    manager = ModelManager(tmp_path, FEATURES)
    with pytest.raises(ModelRefused, match="no model was promoted"):
        manager.load_model()
    with pytest.raises(Unavailable, match="model: no model was promoted"):
        manager.predict_single(np.zeros(7))
    health = manager.health_check()
    assert (health.healthy, health.sha256, health.last_refusal) == (False, None, "no model was promoted to production")


def test_a_loaded_model_predicts_singly_and_in_batches_and_is_healthy(models: Path) -> None:
    manager = ModelManager(models, FEATURES)
    loaded = manager.load_model(digest_of(TEXT))
    matrix = vectors(20)
    assert manager.predict_batch(matrix)[0].tolist() == reference(matrix, raw_score=True).tolist()
    assert manager.predict_single(matrix[0]) == loaded.predict_single(matrix[0])
    health = manager.health_check()
    assert (health.healthy, health.sha256, health.catalogue_version, health.last_refusal) == (True, digest_of(TEXT), "v1", None)


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "manifest"])
def test_a_model_that_is_refused_leaves_the_one_before_serving(models: Path, damage: str) -> None:
    manager = ModelManager(models, FEATURES)
    manager.load_model(digest_of(TEXT))
    before = manager.predict_single(vectors(1)[0])
    target = models / digest_of(OTHER_TEXT) / ("model.json" if damage == "manifest" else "model.txt")
    content = target.read_bytes()
    if damage == "remove":
        target.unlink()
    else:
        target.write_bytes({"truncate": content[:-500], "alter": content.replace(b"0", b"1", 1), "manifest": content[:100]}[damage])
    with pytest.raises(ModelRefused):
        manager.load_model(digest_of(OTHER_TEXT))
    assert manager.current.sha256 == digest_of(TEXT)
    assert manager.predict_single(vectors(1)[0]) == before
    health = manager.health_check()
    assert health.healthy
    assert health.last_refusal is not None


def test_a_swap_takes_the_next_batch_and_leaves_a_batch_under_way_alone(models: Path) -> None:
    manager = ModelManager(models, FEATURES)
    first = manager.load_model(digest_of(TEXT))
    expected = first.predict(vectors(10))[0].tolist()
    second = manager.load_model(digest_of(OTHER_TEXT))
    assert manager.current is second
    assert second.predict(vectors(10))[0].tolist() != expected
    assert first.predict(vectors(10))[0].tolist() == expected


def test_the_same_model_is_not_loaded_twice(models: Path) -> None:
    manager = ModelManager(models, FEATURES)
    assert manager.load_model(digest_of(TEXT)) is manager.load_model(digest_of(TEXT))


def test_a_model_outlives_its_folder(models: Path) -> None:
    """Nothing is read from disk after loading, so deleting old models never disturbs a server."""
    model = Model(read_files(models, digest_of(TEXT)), FEATURES)
    (models / digest_of(TEXT) / "model.txt").unlink()
    assert model.predict(vectors(3))[0].tolist() == reference(vectors(3), raw_score=True).tolist()


def test_long_feature_names_come_back_whole() -> None:
    long = tuple(f"{'x' * 300}_{number}" for number in range(3))
    rows = np.random.default_rng(5).normal(size=(200, 3))
    text = lightgbm.train({"verbosity": -1}, lightgbm.Dataset(rows, rows[:, 0] > 0, feature_name=list(long)), 2).model_to_string()
    assert LibraryBooster(text).feature_names == long
