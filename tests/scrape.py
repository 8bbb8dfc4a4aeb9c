"""Everything that the processes of a running stack expose to Prometheus, read once."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from http.client import RemoteDisconnected
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from infra.stack import Stack


@dataclass(frozen=True)
class Scrape:
    """Everything that the announced targets expose: values by name and labels, with those of the target."""

    samples: list[tuple[str, dict[str, str], float]]

    @property
    def exposed(self) -> dict[str, frozenset[str]]:
        labels: dict[str, frozenset[str]] = {}
        for name, of_sample, _ in self.samples:
            labels[name] = labels.get(name, frozenset()) | of_sample.keys()
        return labels

    def total(self, name: str, **labels: str) -> float:
        return sum(value for found, own, value in self.samples if found == name and labels.items() <= own.items())


def read_target(address: str) -> str:
    """A JVM that registers metrics at this moment may hang up; Prometheus, too, comes again."""
    for attempt in (1, 2, 3):
        try:
            with urlopen(f"http://{address}/metrics", timeout=20) as answer:
                return str(answer.read().decode())
        except RemoteDisconnected as error:
            if attempt == 3:
                raise AssertionError(f"{address} hangs up") from error
            time.sleep(1.0)
    raise AssertionError(address)


def scrape(stack: Stack) -> Scrape:
    samples = []
    for path in sorted(stack.layout.metrics.glob("*.json")):
        (group,) = json.loads(path.read_text())
        found = [sample for family in text_string_to_metric_families(read_target(group["targets"][0])) for sample in family.samples]
        assert not {label for sample in found for label in sample.labels} & group["labels"].keys()  # Prometheus would rename ours
        samples += [(sample.name, {**sample.labels, **group["labels"]}, sample.value) for sample in found]
    return Scrape(samples)
