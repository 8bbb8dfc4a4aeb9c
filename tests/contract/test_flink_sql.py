"""The kernel's windows against Flink SQL's own ``OVER (PARTITION BY card ORDER BY ts RANGE ...)`` over the same events.

Two differences of definition are bridged here, and nothing else:

* Flink's ``RANGE BETWEEN INTERVAL w PRECEDING AND CURRENT ROW`` is [t - w, t]; ours is (t - w, t].  Time is whole milliseconds, so
  an interval one millisecond shorter is the same set.
* In Flink all rows of one timestamp see each other; in the kernel an event sees those that arrived before it.  The last event of
  a tie therefore sees the same set in both, and the earlier ones are compared with the oracle instead (``test_kernel_oracle.py``).

The events come in event-time order, because Flink drops what is behind its watermark while the kernel does not.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraud.catalogue import Catalogue
from fraud.events import Kind, Transaction
from infra.java import find_java_home
from tests.contract.logs import START_MS, Entity, transaction
from tests.contract.naive import DAY_MS, HOUR_MS, MINUTE_MS

EVENTS, CARDS = 3_000, 12
WINDOWS = ("5m", "1h", "24h", "7d", "30d")
AGGREGATES = ("count_tx", "sum_amount", "mean_amount", "min_amount", "max_amount", "distinct_merchant")  # as in flink_over.py


def events() -> list[Transaction]:
    """Two months of twelve cards, with events exactly on the edges of windows before and with ties."""
    rng = random.Random(11)
    edges = [edge + nudge for edge in (5 * MINUTE_MS, HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS) for nudge in (-1, 0, 1)]
    times: list[tuple[int, str]] = []
    for i in range(EVENTS):
        p = rng.random()
        if p < 0.6 or i < CARDS:
            times.append((START_MS + rng.randrange(60 * DAY_MS), f"c{i % CARDS}"))
        else:
            t, card = rng.choice(times)
            times.append((t + (0 if p > 0.97 else rng.choice((*edges, rng.randrange(5 * MINUTE_MS)))), card))
    return [
        transaction(t, rng.randrange(1, 500_000), transaction_id=f"t{i}", card_id=card, merchant_id=f"m{rng.randrange(9)}")
        for i, (t, card) in enumerate(sorted(times))
    ]


def csv_lines(log: list[Transaction]) -> Iterator[str]:
    for i, tx in enumerate(log):
        when = datetime.fromtimestamp(tx.event_time_ms // 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
        yield f"{tx.card_id},{i},{tx.merchant_id},{tx.amount_minor},{when}.{tx.event_time_ms % 1000:03d}\n"


@pytest.mark.slow
def test_windows_equal_those_of_flink_sql(tmp_path: Path) -> None:
    log = events()
    (tmp_path / "events.csv").write_text("".join(csv_lines(log)))
    script = Path(__file__).with_name("flink_over.py")
    # the log goes to a file of pyflink's installation otherwise, and a laptop has other use for its memory
    environment = os.environ | {
        "JAVA_HOME": str(find_java_home()),
        "JVM_ARGS": "-Xmx512m -XX:TieredStopAtLevel=1",
        "FLINK_LOG_DIR": str(tmp_path),
    }
    command = [sys.executable, str(script), str(tmp_path / "events.csv"), str(tmp_path / "out.json")]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-3_000:]
    by_flink = {window: {row[0]: row[1:] for row in rows} for window, rows in json.loads((tmp_path / "out.json").read_text()).items()}

    names = [f"card_{aggregate}_{window}" for window in WINDOWS for aggregate in AGGREGATES]
    catalogue = Catalogue.of(names)
    cards = {f"c{i}": Entity(Kind.CARD, catalogue) for i in range(CARDS)}
    last_of_tie = {(tx.card_id, tx.event_time_ms): i for i, tx in enumerate(log)}
    differences, compared = [], 0
    for i, tx in enumerate(log):
        card = cards[tx.card_id]
        out = card.apply(tx)
        assert out is not None
        if last_of_tie[tx.card_id, tx.event_time_ms] != i:
            continue
        got = dict(zip(card.names, out.tolist(), strict=True))
        for window in WINDOWS:
            for aggregate, expected in zip(AGGREGATES, by_flink[window][i], strict=True):
                value = got[f"card_{aggregate}_{window}"]
                same = abs(value - expected) <= 1e-12 * abs(expected) if aggregate == "mean_amount" else value == expected
                compared += 1
                if not same:
                    differences.append(f"event {i}: {aggregate}_{window}: Flink {expected}, kernel {value}")
    assert differences == []
    ties = EVENTS - len(last_of_tie)
    assert ties > 20, "there should be ties to treat"
    assert compared == (EVENTS - ties) * len(names)
