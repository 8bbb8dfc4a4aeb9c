"""What the bench tells a peer's program: a JSON file, named by an environment variable.

Standard library only, since two environments read it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["SETTINGS_VARIABLE", "PeerSettings"]

SETTINGS_VARIABLE = "FRAUDGUARD_PEER_SETTINGS"


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """Addresses, folders and versions; ``first_read_file`` is where the first worker to read a record leaves the time."""

    bootstrap_servers: str
    input_topic: str
    output_topic: str
    group: str
    partitions: int
    state_dir: str
    first_read_file: str
    schema_ids: Mapping[str, int]
    ip_hash_key_file: str
    models_dir: str
    model_sha256: str
    rules_json: str
    code_version: str
    commit_interval_ms: int
    jars: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> PeerSettings:
        """Read the file that the environment names."""
        plain = json.loads(Path(environment[SETTINGS_VARIABLE]).read_text(encoding="utf-8"))
        return cls(**{**plain, "jars": tuple(plain["jars"])})
