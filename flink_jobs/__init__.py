"""Flink topologies and their thin operators; the scoring job is composed in ``score``."""
