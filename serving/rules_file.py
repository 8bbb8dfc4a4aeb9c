"""Rule files: the YAML that people edit, read into the rule engine's plain structures.

The engine itself knows no YAML; what it refuses keeps its rule id and position.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from fraud.rules import InvalidRules, RuleSet

__all__ = ["DEFAULT_RULES_PATH", "load_rules"]

DEFAULT_RULES_PATH = Path(__file__).parent / "rules" / "default.yaml"
_MAX_BYTES = 1_000_000


def load_rules(path: Path, features: Mapping[str, int]) -> RuleSet:
    """Read and compile a rule file.

    Args:
        path: of a YAML file ``rules: [...]``.
        features: name to index in the feature vector (``CATALOGUE.index``).

    Raises:
        InvalidRules: the file cannot be read, is not YAML, or holds a rule that cannot be used.
    """
    try:
        text = path.read_bytes()[: _MAX_BYTES + 1]
    except OSError as error:
        raise InvalidRules(f"{path.name}: {error.strerror}") from None
    if len(text) > _MAX_BYTES:
        raise InvalidRules(f"{path.name}: larger than {_MAX_BYTES} bytes")
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidRules(f"{path.name}: not YAML: {error}") from None
    return RuleSet.parse(data, features)
