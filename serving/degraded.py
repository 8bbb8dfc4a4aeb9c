"""The words in which a decision says what it had to do without.

``fraud.decide`` has its own for model and rules; these are of a door that reads a store and writes to Kafka, and change no number.
"""

from __future__ import annotations

__all__ = ["DOOR_WORDS", "KAFKA_DOWN", "STORE_DOWN", "STORE_HEALING", "sides_down"]

STORE_DOWN = "store_down"  # no state could be read
STORE_HEALING = "store_healing"  # the states of some entities may have been lost
KAFKA_DOWN = "kafka_down"  # the stream hears of it later, or never

DOOR_WORDS = frozenset({STORE_DOWN, STORE_HEALING, KAFKA_DOWN})


def sides_down(degraded: str | None) -> frozenset[str]:
    """Which of model and rules were down, in the words of either door."""
    words = frozenset((degraded or "").replace("model_and_rules_down", "model_down,rules_down").split(",")) - {""}
    return words - DOOR_WORDS
