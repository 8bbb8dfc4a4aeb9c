"""Charts are drawn by a process of their own, as pictures that load and run nothing, and the same numbers give the same picture."""

from __future__ import annotations

import os
import signal
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from analytics.chart_worker import ChartWorker
from analytics.charts import CHARTS, Chart, Contributions, Lines, Map, OutcomeBars, Place, Shares
from analytics.coast import borders, land
from fraud.errors import Unavailable

AT_MS = 1_760_000_040_000
MINUTES = [AT_MS, AT_MS + 60_000]
SPAN = (AT_MS - 600_000, AT_MS + 600_000)
SAMPLES: list[Chart] = [
    OutcomeBars(MINUTES, [3, 4], [0, 1], [2, 0], *SPAN),
    Lines(MINUTES, {"half within": [2.0, None], "99 % within": [9.0, None]}, "milliseconds", *SPAN),
    Shares(["card_testing <script>"], [0.5], [0.2], [0.8], ["2 of 4"], "recall"),
    Contributions(["amount = 3"], [0.0], "added"),
    Contributions(["amount = 3", "card_age_days = 1"], [-1.5, 0.25], "added"),
    Map([Place(1, 48.2, 16.4, "ALLOW", False)]),
    Map([Place(1, 89.9, -179.9, "DENY", True), Place(2, -89.9, 179.9, "CHALLENGE", False)]),
]


@pytest.fixture(scope="module")
def worker() -> Iterator[ChartWorker]:
    made = ChartWorker()
    yield made
    made.close()


def test_there_is_a_sample_of_every_chart() -> None:
    assert {type(one).__name__ for one in SAMPLES} == set(CHARTS)


@pytest.mark.parametrize("chart", SAMPLES, ids=lambda chart: type(chart).__name__)
def test_a_chart_is_a_picture_that_loads_and_runs_nothing(worker: ChartWorker, chart: Chart) -> None:
    picture = worker.draw(chart)
    root = ET.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not names & {"script", "image", "foreignObject", "a"}
    targets = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert all(value.startswith("#") for value in targets)
    assert worker.draw(chart) == picture
    assert len(picture) < 700_000


def test_a_worker_that_died_is_told_once_and_replaced(worker: ChartWorker) -> None:
    worker.draw(SAMPLES[3])
    process = worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # so that it dies with the question and not before it
    os.kill(process.pid, signal.SIGKILL)
    try:
        worker.draw(SAMPLES[3])
    except Unavailable as error:
        assert error.dependency == "charts"
    assert worker.draw(SAMPLES[3]).startswith("<?xml")
    assert worker._process is not process


def test_a_worker_ends_when_nobody_can_ask_it_any_more() -> None:
    """As when the API was killed: the pipe is gone."""
    left = ChartWorker()
    left.draw(SAMPLES[3])
    process = left._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    deadline_s = time.monotonic() + 10
    while process.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert process.returncode == 0


@pytest.mark.parametrize("fine", [False, True])
def test_coasts_and_borders_are_on_the_globe(fine: bool) -> None:
    for lines in (land(fine=fine), borders(fine=fine)):
        assert len(lines) > 100
        assert all(abs(line[:, 1]).max() <= 90 and abs(line[:, 0]).max() <= 180.1 for line in lines)
    africa = max(land(fine=fine), key=len)
    assert len(africa) > (2_000 if fine else 500)
