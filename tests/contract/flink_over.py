"""Run by ``test_flink_sql.py`` in a process of its own: Flink SQL's OVER windows over a CSV file, on a local mini cluster.

    python flink_over.py EVENTS.csv OUT.json

EVENTS.csv has the columns card, number, merchant, amount, time (``yyyy-MM-dd HH:mm:ss.SSS``), in event-time order.
OUT.json gets, by window, ``[number, COUNT(*), SUM, AVG, MIN, MAX, COUNT(DISTINCT merchant)]`` of every event.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyflink.table import EnvironmentSettings, TableEnvironment

# One millisecond less than the window: Flink's frame includes its lower bound, ours does not.
RANGES = {"5m": "0 00:04:59.999", "1h": "0 00:59:59.999", "24h": "0 23:59:59.999", "7d": "6 23:59:59.999", "30d": "29 23:59:59.999"}

# The watermark trails by a second, so that ties of the last timestamp are not late.
# A table a window: Flink 2.2.1 takes two OVER operators over one input that differ in nothing but their interval for the same one.
SOURCE = """
CREATE TABLE events_{window} (
  card STRING, number INT, merchant STRING, amount BIGINT, ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '1' SECOND
) WITH ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'csv')
"""

OVER = """
SELECT '{window}', number, COUNT(*) OVER w, SUM(amount) OVER w, AVG(CAST(amount AS DOUBLE)) OVER w,
       MIN(amount) OVER w, MAX(amount) OVER w, COUNT(DISTINCT merchant) OVER w
FROM events_{window}
WINDOW w AS (PARTITION BY card ORDER BY ts RANGE BETWEEN INTERVAL '{interval}' DAY TO SECOND PRECEDING AND CURRENT ROW)
"""


def main(events: str, out: str) -> None:
    """Evaluate all windows in one streaming job: batch mode cannot compile a RANGE over a TIMESTAMP (Flink 2.2.1)."""
    environment = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    environment.get_config().set("parallelism.default", "1")
    for window in RANGES:
        environment.execute_sql(SOURCE.format(window=window, path=events))
    query = " UNION ALL ".join(OVER.format(window=window, interval=interval) for window, interval in RANGES.items())
    found: dict[str, list[list[float]]] = {window: [] for window in RANGES}
    with environment.execute_sql(query).collect() as rows:
        for row in rows:
            window, *values = list(row)
            found[window].append(values)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
