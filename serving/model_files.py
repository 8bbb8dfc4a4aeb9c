"""Model files on disk: content-addressed folders, and the pointer to the one in production.

A model is the folder ``<models_dir>/<sha256 of model.txt>`` with ``model.txt`` (LightGBM's text), ``model.json`` (what it needs
and how good it was) and, where an anomaly forest was trained beside it, ``anomaly.npz``.  Folders appear whole or not at all and
never change.  ``<models_dir>/production.json`` names the model to load and the one before it, ``testing.json`` one that is tried.

Nothing here loads a model into a library, and nothing is believed before its SHA-256 was checked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from math import isfinite
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from fraud.errors import Unavailable
from serving.atomic_write import write_atomically

__all__ = ["AnomalyFile", "Calibration", "Manifest", "ModelFiles", "ModelRefused", "Production", "production", "promote", "publish"]
__all__ += ["OnTrial", "on_trial", "published", "put_on_trial", "read_files"]

MODEL_NAME, MANIFEST_NAME, ANOMALY_NAME, POINTER_NAME = "model.txt", "model.json", "anomaly.npz", "production.json"
TESTING_NAME = "testing.json"
_FORMAT = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelRefused(Unavailable):
    """A model that must not serve: absent, cut short, altered, or made for other features.  What served before goes on."""

    def __init__(self, detail: str) -> None:
        super().__init__("model", detail)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling: probability = 1 / (1 + exp(-(a * raw + b)))."""

    a: float
    b: float


@dataclass(frozen=True, slots=True)
class AnomalyFile:
    """The anomaly forest beside a model: hash of its file, and the catalogue features it reads, in its order."""

    sha256: str
    feature_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of ``model.json``: what is needed to serve the model, then how it came about."""

    feature_names: tuple[str, ...]
    catalogue_version: str
    calibration: Calibration
    anomaly: AnomalyFile | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the manifest as JSON, the same bytes for the same content."""
        plain = {
            "format": _FORMAT,
            "feature_names": list(self.feature_names),
            "catalogue_version": self.catalogue_version,
            "calibration": {"a": self.calibration.a, "b": self.calibration.b},
            "anomaly": None if self.anomaly is None else {"sha256": self.anomaly.sha256, "feature_names": list(self.anomaly.feature_names)},
            "metrics": dict(self.metrics),
            "hyper_parameters": dict(self.hyper_parameters),
            "training": dict(self.training),
        }
        return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ModelRefused: not a manifest of this format.
        """
        try:
            plain = json.loads(text)
            if plain["format"] != _FORMAT:
                raise ModelRefused(f"{MANIFEST_NAME} has format {plain['format']!r}, this program reads {_FORMAT}")
            calibration = Calibration(float(plain["calibration"]["a"]), float(plain["calibration"]["b"]))
            anomaly = plain["anomaly"]
            manifest = cls(
                feature_names=tuple(str(name) for name in plain["feature_names"]),
                catalogue_version=str(plain["catalogue_version"]),
                calibration=calibration,
                anomaly=None if anomaly is None else AnomalyFile(str(anomaly["sha256"]), tuple(map(str, anomaly["feature_names"]))),
                metrics=dict(plain["metrics"]),
                hyper_parameters=dict(plain["hyper_parameters"]),
                training=dict(plain["training"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelRefused(f"{MANIFEST_NAME} cannot be read: {type(error).__name__}: {error}") from None
        if not (isfinite(calibration.a) and isfinite(calibration.b)):
            raise ModelRefused(f"{MANIFEST_NAME}: the calibration is not finite")
        return manifest


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The verified content of a model's folder."""

    sha256: str
    text: str
    manifest: Manifest
    manifest_sha256: str
    anomaly: bytes | None


@dataclass(frozen=True, slots=True)
class Production:
    """The pointer: which model serves, the hash of its manifest, and which one served before (the way back)."""

    sha256: str
    manifest_sha256: str
    previous_sha256: str | None


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A model that is tried beside the one in production: it decides for so many percent of the cards."""

    sha256: str
    traffic_percentage: float


def publish(models_dir: Path, model_text: str, manifest: Manifest, anomaly: bytes | None = None) -> str:
    """Write a model's folder and return its SHA-256; publishing the same content again changes nothing.

    Raises:
        ModelRefused: the same model text is there with another manifest or forest: a published model never changes.
    """
    content = model_text.encode()
    digest = sha256(content).hexdigest()
    files = {MODEL_NAME: content, MANIFEST_NAME: manifest.to_json().encode()}
    if anomaly is not None:
        files[ANOMALY_NAME] = anomaly
    folder = models_dir / digest
    models_dir.mkdir(parents=True, exist_ok=True)
    staging = Path(mkdtemp(prefix=".publish-", dir=models_dir))
    try:
        for name, data in files.items():
            _write(staging / name, data)
        staging.chmod(0o755)  # mkdtemp's 0700 would shut out a server that runs as another user
        staging.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        if {path.name: path.read_bytes() for path in folder.iterdir()} != files:
            raise ModelRefused(f"{digest[:12]} is already published with another manifest") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return digest


def read_files(models_dir: Path, digest: str, manifest_sha256: str | None = None) -> ModelFiles:
    """Read and verify a published model.

    Args:
        models_dir: folder of all models.
        digest: SHA-256 of the model text, which is the folder's name.
        manifest_sha256: expected hash of ``model.json``, where the caller knows it.

    Raises:
        ModelRefused: absent, cut short, or not what the hashes say.
    """
    if not _SHA256.fullmatch(digest):
        raise ModelRefused("a model is named by the 64 hex digits of its SHA-256")
    folder = models_dir / digest
    content = _read(folder / MODEL_NAME, digest)
    manifest_bytes = _read(folder / MANIFEST_NAME, manifest_sha256)
    manifest = Manifest.from_json(manifest_bytes)
    anomaly = None if manifest.anomaly is None else _read(folder / ANOMALY_NAME, manifest.anomaly.sha256)
    return ModelFiles(digest, content.decode(errors="replace"), manifest, sha256(manifest_bytes).hexdigest(), anomaly)


def published(models_dir: Path) -> dict[str, Manifest]:
    """List the models that are whole, by SHA-256, with their manifests."""
    found = {}
    for folder in sorted(models_dir.iterdir()) if models_dir.is_dir() else ():
        if _SHA256.fullmatch(folder.name):
            try:
                found[folder.name] = read_files(models_dir, folder.name).manifest
            except ModelRefused:
                continue  # a damaged model is not on offer; loading it by name says why
    return found


def production(models_dir: Path) -> Production | None:
    """Return the pointer, or ``None`` when nothing was ever promoted.

    Raises:
        ModelRefused: the pointer cannot be read.
    """
    try:
        plain = json.loads((models_dir / POINTER_NAME).read_bytes())
        return Production(str(plain["sha256"]), str(plain["manifest_sha256"]), plain["previous_sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{POINTER_NAME} cannot be read: {type(error).__name__}") from None


def promote(models_dir: Path, digest: str) -> Production:
    """Verify a published model and make it the one in production; promoting what serves already changes nothing.

    Raises:
        ModelRefused: the model is not whole.
    """
    files = read_files(models_dir, digest)
    before = production(models_dir)
    if before is not None and before.sha256 == digest:
        return before
    pointer = Production(digest, files.manifest_sha256, None if before is None else before.sha256)
    plain = {
        "sha256": pointer.sha256,
        "manifest_sha256": pointer.manifest_sha256,
        "previous_sha256": pointer.previous_sha256,
    }
    write_atomically(models_dir / POINTER_NAME, json.dumps(plain, indent=2) + "\n", durable=True)
    return pointer


def on_trial(models_dir: Path) -> OnTrial | None:
    """The model that is tried beside the one in production; raises ModelRefused when the pointer cannot be read."""
    try:
        plain = json.loads((models_dir / TESTING_NAME).read_bytes())
        return OnTrial(str(plain["sha256"]), float(plain["traffic_percentage"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{TESTING_NAME} cannot be read: {type(error).__name__}") from None


def put_on_trial(models_dir: Path, tried: OnTrial | None) -> None:
    """Note which model is tried, or that none is; who tries it is told on the topic ``models``."""
    if tried is None:
        (models_dir / TESTING_NAME).unlink(missing_ok=True)
    else:
        write_atomically(models_dir / TESTING_NAME, json.dumps(asdict(tried), indent=2) + "\n", durable=True)


def _read(path: Path, digest: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{path.parent.name[:12]}/{path.name}: {error.strerror}") from None
    if digest is not None and sha256(content).hexdigest() != digest:
        raise ModelRefused(f"{path.parent.name[:12]}/{path.name} is not what its SHA-256 says: altered or cut short")
    return content


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it survives the machine, not only the process."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
