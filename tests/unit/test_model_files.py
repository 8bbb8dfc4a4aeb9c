"""Model files: folders that appear whole, never change and are never believed unchecked; the pointer to production."""

import json
import stat
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from infra.releases import published_models
from serving.model_files import (
    AnomalyFile,
    Calibration,
    Manifest,
    ModelRefused,
    OnTrial,
    on_trial,
    production,
    promote,
    publish,
    published,
    put_on_trial,
    read_files,
)

MANIFEST = Manifest(
    feature_names=("a", "b"), catalogue_version="v1", calibration=Calibration(1.0, 0.5), metrics={"auc": 0.9}, training={"rows": 5}
)
FOREST = b"forest"
WITH_FOREST = replace(MANIFEST, anomaly=AnomalyFile(sha256(FOREST).hexdigest(), ("a",)))


def test_a_model_is_named_by_its_content_and_reads_back(tmp_path: Path) -> None:
    digest = publish(tmp_path / "deep" / "models", "tree", WITH_FOREST, FOREST)
    assert digest == sha256(b"tree").hexdigest()
    files = read_files(tmp_path / "deep" / "models", digest)
    assert (files.sha256, files.text, files.manifest, files.anomaly) == (digest, "tree", WITH_FOREST, FOREST)
    assert {path.name for path in (tmp_path / "deep" / "models" / digest).iterdir()} == {"model.txt", "model.json", "anomaly.npz"}


def test_nothing_half_written_stays_behind_and_others_may_read(tmp_path: Path) -> None:
    digest = publish(tmp_path, "tree", MANIFEST)
    publish(tmp_path, "tree", MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == [digest]
    assert stat.S_IMODE((tmp_path / digest).stat().st_mode) == 0o755


def test_a_published_model_never_changes(tmp_path: Path) -> None:
    digest = publish(tmp_path, "tree", MANIFEST)
    with pytest.raises(ModelRefused, match="already published with another manifest"):
        publish(tmp_path, "tree", replace(MANIFEST, calibration=Calibration(2.0, 0.0)))
    assert read_files(tmp_path, digest).manifest == MANIFEST


@pytest.mark.parametrize("digest", ["", "abc", "A" * 64, "../" + "a" * 61, "0" * 64])
def test_a_name_that_is_no_model_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ModelRefused):
        read_files(tmp_path, digest)


@pytest.mark.parametrize("name", ["model.txt", "anomaly.npz"])
@pytest.mark.parametrize("content", [b"", b"tre", b"tree2"])
def test_a_file_that_is_cut_short_or_altered_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    digest = publish(tmp_path, "tree", WITH_FOREST, FOREST)
    (tmp_path / digest / name).write_bytes(content)
    with pytest.raises(ModelRefused, match="altered or cut short"):
        read_files(tmp_path, digest)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"calibration": {"a": "x", "b": 0}},
        {"calibration": {"a": 1}},
        {"calibration": {"a": float("inf"), "b": 0}},
        {"feature_names": None},
        {"anomaly": {}},
        {"metrics": 5},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    plain = json.loads(MANIFEST.to_json()) | change
    with pytest.raises(ModelRefused):
        Manifest.from_json(json.dumps(plain).encode())


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1}'])
def test_bytes_that_are_no_manifest_are_refused(text: bytes) -> None:
    with pytest.raises(ModelRefused, match=r"model\.json"):
        Manifest.from_json(text)


def test_a_manifest_survives_json_and_its_bytes_are_reproducible() -> None:
    assert Manifest.from_json(WITH_FOREST.to_json().encode()) == WITH_FOREST
    assert Manifest.from_json(WITH_FOREST.to_json().encode()).to_json() == WITH_FOREST.to_json()


def test_the_list_holds_the_models_that_are_whole(tmp_path: Path) -> None:
    assert published(tmp_path / "absent") == {}
    good, bad = publish(tmp_path, "good", MANIFEST), publish(tmp_path, "bad", MANIFEST)
    (tmp_path / bad / "model.txt").write_bytes(b"ba")
    (tmp_path / "notes").mkdir()
    assert published(tmp_path) == {good: MANIFEST}


def test_promotion_points_to_the_model_and_back_to_the_one_before(tmp_path: Path) -> None:
    first, second = publish(tmp_path, "first", MANIFEST), publish(tmp_path, "second", MANIFEST)
    assert production(tmp_path) is None
    assert promote(tmp_path, first).previous_sha256 is None
    pointer = promote(tmp_path, second)
    assert (pointer.sha256, pointer.previous_sha256) == (second, first)
    assert promote(tmp_path, second) == pointer == production(tmp_path)
    assert promote(tmp_path, first).previous_sha256 == second
    assert {path.name for path in tmp_path.iterdir()} == {first, second, "production.json"}


def test_the_pointer_pins_the_manifest_too(tmp_path: Path) -> None:
    """The folder's name covers the trees only; another calibration must not slip in under the same name."""
    digest = publish(tmp_path, "tree", MANIFEST)
    pointer = promote(tmp_path, digest)
    changed = replace(MANIFEST, calibration=Calibration(9.0, 9.0)).to_json()
    (tmp_path / digest / "model.json").write_text(changed)
    assert read_files(tmp_path, digest).manifest.calibration.a == 9.0
    with pytest.raises(ModelRefused, match=r"model\.json is not what its SHA-256 says"):
        read_files(tmp_path, digest, pointer.manifest_sha256)


def test_a_model_that_is_not_whole_is_not_promoted(tmp_path: Path) -> None:
    good, bad = publish(tmp_path, "good", MANIFEST), publish(tmp_path, "bad", MANIFEST)
    promote(tmp_path, good)
    (tmp_path / bad / "model.txt").write_bytes(b"")
    with pytest.raises(ModelRefused):
        promote(tmp_path, bad)
    pointer = production(tmp_path)
    assert pointer is not None
    assert pointer.sha256 == good


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": "x"}'])
def test_a_pointer_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "production.json").write_text(text)
    with pytest.raises(ModelRefused, match=r"production\.json cannot be read"):
        production(tmp_path)


def test_what_is_tried_is_noted_beside_production_until_it_is_not(tmp_path: Path) -> None:
    live, tried = publish(tmp_path, "tree", MANIFEST), publish(tmp_path, "other tree", MANIFEST)
    promote(tmp_path, live)
    assert on_trial(tmp_path) is None
    put_on_trial(tmp_path, OnTrial(tried, 12.5))
    assert on_trial(tmp_path) == OnTrial(tried, 12.5)
    assert {one["sha256"]: (one["status"], one["traffic_percentage"]) for one in published_models(tmp_path)} == {
        live: ("production", 87.5),
        tried: ("testing", 12.5),
    }
    put_on_trial(tmp_path, None)
    put_on_trial(tmp_path, None)
    assert {one["status"] for one in published_models(tmp_path)} == {"production", "published"}
    (tmp_path / "testing.json").write_text("[]")
    with pytest.raises(ModelRefused):
        on_trial(tmp_path)
