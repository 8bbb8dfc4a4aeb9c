"""The feature kernel: an entity's event log as one array of integers, and every feature as a function of it.

The stream, the request, the backfill and the backtest call the functions of this module and no others, so a number computed
in one of them is computed in all of them, to the last bit.  Compiled by numba without fast-math: sums of money are integer
sums, and every floating-point operation happens in a fixed order, the order of the log.

**Layout of a state** (``int64[:]``): a header of ``HEADER`` words, then four sections with room to grow:

========= ============================ =====================================================================
section   words an entry               content
========= ============================ =====================================================================
labels    2: tx time, tx hash          transactions known to be fraud, by transaction time
seen      1: hash                      counterparties older than the log, least recently used first
buckets   4: start, count, sum, fraud  the folded tail of a high-volume entity
log       7: see ``L_*``               transactions by (event time, arrival)
========= ============================ =====================================================================

Times are milliseconds UTC, amounts minor units of the base currency, positions millionths of a degree.

This module must not know feature names (``catalogue``), transactions (``events``) or bytes (``state``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fraud.geo import MISSING, haversine_km

__all__ = ["apply_label", "empty_state", "has_transaction", "new_scratch", "observe", "replay"]

# Part of the catalogue's version: raise it with every change after which some feature has other bits.
KERNEL_VERSION = 1

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# --- header words -----------------------------------------------------------------------------------------------------
H_SEQ, H_LOG, H_LABELS, H_SEEN, H_BUCKETS = 0, 1, 2, 3, 4
H_CAP_LOG, H_CAP_LABELS, H_CAP_SEEN, H_CAP_BUCKETS = 5, 6, 7, 8
H_MAX_T, H_FIRST_T, H_TOTAL_COUNT, H_TOTAL_SUM, H_FOLDED_T = 9, 10, 11, 12, 13
HEADER = 16
W_LABEL, W_SEEN, W_BUCKET, W_LOG = 2, 1, 4, 7

# --- columns of a log entry -------------------------------------------------------------------------------------------
L_T, L_AMOUNT, L_A, L_B, L_LATLON, L_PACKED, L_TX = 0, 1, 2, 3, 4, 5, 6

# --- columns of an event row (see fraud.vector) -------------------------------------------------------------------------
E_T, E_AMOUNT, E_TX, E_CARD, E_USER, E_MERCHANT, E_DEVICE, E_IP = 0, 1, 2, 3, 4, 5, 6, 7
E_LAT, E_LON, E_COUNTRY, E_MCC, E_FLAGS = 8, 9, 10, 11, 12
E_BILL_LAT, E_BILL_LON, E_IP_LAT, E_IP_LON, E_IP_COUNTRY, E_CARD_COUNTRY, E_MERCHANT_COUNTRY, E_CARD_AGE = (
    13,
    14,
    15,
    16,
    17,
    18,
    19,
    20,
)
EVENT_WORDS = 21
FLAG_DECLINED, FLAG_CARD_NOT_PRESENT, FLAG_CARD_PRESENT = 1, 2, 4

# --- plan words (built by fraud.catalogue) ------------------------------------------------------------------------------
P_KIND, P_RETENTION, P_HEAD_CAP, P_BUCKET, P_SEEN_CAP, P_WINDOWS, P_DELAYED, P_FEATURES, P_LIFETIME, P_PERSON = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)
PLAN_HEADER = 10
NEED_DISTINCT, NEED_ORDER = 1, 2

# --- aggregates; the first A_WINDOWED of them exist once a window ----------------------------------------------------------
(
    A_COUNT,
    A_SUM,
    A_MEAN,
    A_MIN,
    A_MAX,
    A_STD,
    A_DISTINCT_A,
    A_DISTINCT_B,
    A_DISTINCT_COUNTRY,
    A_DISTINCT_MCC,
    A_DECLINED,
    A_SMALL,
    A_NEARLIMIT,
    A_ZSCORE,
    A_RATIO_MEAN,
    A_RATIO_MEDIAN,
    A_RATIO_P95,
    A_FRAUD,
) = range(18)
A_WINDOWED = 18
A_DELAYED_COUNT, A_DELAYED_RISK = 18, 19
(
    A_SECONDS_SINCE_PREVIOUS,
    A_KM,
    A_KMH,
    A_TOTAL_COUNT,
    A_TOTAL_MEAN,
    A_FIRST_SEEN_A,
    A_FIRST_SEEN_B,
    A_FIRST_SEEN_COUNTRY,
    A_AGE_SECONDS,
) = range(20, 29)

SMALL_AMOUNT_MINOR = 500  # at or under 5.00: what card testers charge
NEARLIMIT_LOW_MINOR, NEARLIMIT_HIGH_MINOR = 180_000, 200_000  # the last tenth under the 2,000.00 line: structuring
MIN_ELAPSED_MS = 1_000  # two events in one second are given a second, so that implied speed stays finite

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing (Knuth, TAOCP vol. 3, 6.4)


def new_scratch(rows: int = 1024) -> Ints:
    """Working memory for one caller: hash sets and a sort buffer for logs of up to ``rows`` entries; it grows by itself."""
    return _scratch(rows)


@njit("int64[::1](int64)", cache=True)
def _scratch(rows: int) -> Any:
    size = 64
    while size < 2 * rows:
        size *= 2
    # [0] generation, [1] size; four sets of (keys, generations); the amounts
    scratch = np.zeros(2 + 9 * size, dtype=np.int64)
    scratch[1] = size
    return scratch


@njit("int64(int64[::1], int64, int64)", cache=True, inline="never")
def _set_add(scratch: Ints, which: int, value: int) -> int:
    """Add ``value`` to set ``which`` of this generation; 1 if it was new, 0 if it was there or is 0 ("none")."""
    if value == 0:
        return 0
    size = scratch[1]
    keys = 2 + 2 * which * size
    generations = keys + size
    slot = np.int64((np.uint64(value) * _MULTIPLIER) >> np.uint64(32)) & (size - 1)
    while scratch[generations + slot] == scratch[0]:
        if scratch[keys + slot] == value:
            return 0
        slot = (slot + 1) & (size - 1)
    scratch[generations + slot] = scratch[0]
    scratch[keys + slot] = value
    return 1


# --- the state array ----------------------------------------------------------------------------------------------------


@njit("int64[::1](int64, int64, int64, int64)", cache=True)
def _allocate(cap_labels: int, cap_seen: int, cap_buckets: int, cap_log: int) -> Any:
    state = np.zeros(HEADER + cap_labels * W_LABEL + cap_seen * W_SEEN + cap_buckets * W_BUCKET + cap_log * W_LOG, dtype=np.int64)
    state[H_CAP_LABELS] = cap_labels
    state[H_CAP_SEEN] = cap_seen
    state[H_CAP_BUCKETS] = cap_buckets
    state[H_CAP_LOG] = cap_log
    state[H_MAX_T] = MISSING
    state[H_FIRST_T] = MISSING
    state[H_FOLDED_T] = MISSING
    return state


def empty_state() -> Ints:
    """State of an entity that nothing was applied to."""
    return _allocate(0, 0, 0, 4)


@njit("int64(int64[::1])", cache=True)
def _seen_at(state: Ints) -> int:
    return HEADER + state[H_CAP_LABELS] * W_LABEL


@njit("int64(int64[::1])", cache=True)
def _buckets_at(state: Ints) -> int:
    return HEADER + state[H_CAP_LABELS] * W_LABEL + state[H_CAP_SEEN] * W_SEEN


@njit("int64(int64[::1])", cache=True)
def _log_at(state: Ints) -> int:
    return HEADER + state[H_CAP_LABELS] * W_LABEL + state[H_CAP_SEEN] * W_SEEN + state[H_CAP_BUCKETS] * W_BUCKET


@njit("void(int64[::1], int64, int64[::1], int64, int64)", cache=True)
def _copy(source: Ints, source_at: int, target: Ints, target_at: int, words: int) -> None:
    for i in range(words):
        target[target_at + i] = source[source_at + i]


@njit("void(int64[::1], int64, int64, int64)", cache=True)
def _drop_front(state: Ints, at: int, words: int, drop: int) -> None:
    """Forget the first ``drop`` of ``words`` words that start at ``at``."""
    for i in range(at, at + words - drop):
        state[i] = state[i + drop]


@njit("int64[::1](int64[::1], int64, int64, int64, int64)", cache=True)
def _with_room(state: Ints, labels: int, seen: int, buckets: int, log: int) -> Any:
    """The state itself, or a copy with larger sections, so that each section holds at least the given number of entries."""
    if labels <= state[H_CAP_LABELS] and seen <= state[H_CAP_SEEN] and buckets <= state[H_CAP_BUCKETS] and log <= state[H_CAP_LOG]:
        return state
    cap_labels = state[H_CAP_LABELS]
    if labels > cap_labels:
        cap_labels = max(4, labels + labels // 2)
    cap_seen = state[H_CAP_SEEN]
    if seen > cap_seen:
        cap_seen = max(8, seen + seen // 2)
    cap_buckets = state[H_CAP_BUCKETS]
    if buckets > cap_buckets:
        cap_buckets = max(8, buckets + buckets // 2)
    cap_log = state[H_CAP_LOG]
    if log > cap_log:
        cap_log = max(8, log + log // 2)
    grown = _allocate(cap_labels, cap_seen, cap_buckets, cap_log)
    for word in (H_SEQ, H_LOG, H_LABELS, H_SEEN, H_BUCKETS, H_MAX_T, H_FIRST_T, H_TOTAL_COUNT, H_TOTAL_SUM, H_FOLDED_T):
        grown[word] = state[word]
    _copy(state, HEADER, grown, HEADER, state[H_LABELS] * W_LABEL)
    _copy(state, _seen_at(state), grown, _seen_at(grown), state[H_SEEN] * W_SEEN)
    _copy(state, _buckets_at(state), grown, _buckets_at(grown), state[H_BUCKETS] * W_BUCKET)
    _copy(state, _log_at(state), grown, _log_at(grown), state[H_LOG] * W_LOG)
    return grown


@njit("int64(int64[::1], int64, int64, int64, int64)", cache=True)
def _upper_bound(state: Ints, at: int, width: int, count: int, t: int) -> int:
    """Number of entries, sorted by their first word, whose first word is <= ``t``."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if state[at + middle * width] <= t:
            low = middle + 1
        else:
            high = middle
    return low


# --- reading: the features of an event ------------------------------------------------------------------------------------


@njit("void(float64[::1], int64, int64, int64, int64, int64, int64, float64, float64)", cache=True)
def _store_window(table: Floats, row: int, amount: int, count: int, total: int, low: int, high: int, above: float, m2: float) -> None:
    """Write one window's money aggregates.

    ``count``, ``total``, ``low``, ``high`` and ``m2`` are over the events before this one, ``above`` is its amount less their mean.
    """
    n = count + 1
    table[row + A_COUNT] = n
    table[row + A_SUM] = total + amount
    table[row + A_MEAN] = (total + amount) / n
    table[row + A_MIN] = min(low, amount)
    table[row + A_MAX] = max(high, amount)
    if count >= 1:
        # the current event joins by Chan, Golub and LeVeque's update, so one pass serves "with" and "without" it
        table[row + A_STD] = math.sqrt((m2 + above * above * count / n) / count)
        if total > 0:
            table[row + A_RATIO_MEAN] = amount / (total / count)
    if count >= 2 and m2 > 0.0:
        table[row + A_ZSCORE] = above / math.sqrt(m2 / (count - 1))


@njit("void(float64[::1], int64, int64, int64[::1], int64)", cache=True)
def _store_order(table: Floats, row: int, amount: int, amounts: Ints, count: int) -> None:
    """Ratios to the median and to the 95th percentile (nearest rank) of the amounts before this one."""
    if count == 0:
        return
    ordered = np.sort(amounts[:count])
    middle = count // 2
    median = float(ordered[middle]) if count % 2 == 1 else 0.5 * (ordered[middle - 1] + ordered[middle])
    p95 = ordered[(95 * count + 99) // 100 - 1]
    if median > 0:
        table[row + A_RATIO_MEDIAN] = amount / median
    if p95 > 0:
        table[row + A_RATIO_P95] = amount / p95


@njit("void(int64[::1], int64[::1], int64, int64, int64, int64[::1], int64[::1], float64[::1])", cache=True)
def _scan_windows(state: Ints, event: Ints, position: int, a: int, b: int, plan: Ints, scratch: Ints, table: Floats) -> None:
    """Fill ``table[window, aggregate]`` in one backward pass over the log from the event's place: every window of it."""
    t, amount = event[E_T], event[E_AMOUNT]
    windows = plan[P_WINDOWS]
    needs = PLAN_HEADER + windows
    person = plan[P_PERSON]
    log = _log_at(state)
    if 2 * (position + 2) > scratch[1]:
        scratch = _scratch(position + 2)
    scratch[0] += 1
    amounts = scratch[2 + 8 * scratch[1] :]

    country, mcc = event[E_COUNTRY], event[E_MCC] + 1 if event[E_MCC] != MISSING else 0
    distinct_a, distinct_b = _set_add(scratch, 0, a), _set_add(scratch, 1, b)
    distinct_country, distinct_mcc = _set_add(scratch, 2, country), _set_add(scratch, 3, mcc)
    declined = event[E_FLAGS] & FLAG_DECLINED
    small = 1 if amount <= SMALL_AMOUNT_MINOR else 0
    near = 1 if NEARLIMIT_LOW_MINOR <= amount <= NEARLIMIT_HIGH_MINOR else 0

    count, total, low, high = 0, 0, amount, amount
    pivot, mean, m2 = amount, 0.0, 0.0
    window = 0
    # the log newest first, then the folded tail: its entries stand behind index -1
    buckets_at, buckets = _buckets_at(state), state[H_BUCKETS]
    i = position - 1
    while window < windows:
        ended = i < -buckets
        ti = MISSING
        if not ended:
            ti = state[log + i * W_LOG + L_T] if i >= 0 else state[buckets_at + (buckets + i) * W_BUCKET]
        if ended or ti <= t - plan[PLAN_HEADER + window]:
            row = window * A_WINDOWED
            _store_window(table, row, amount, count, total, low, high, (amount - pivot) - mean, m2)
            table[row + A_DISTINCT_A] = distinct_a
            table[row + A_DISTINCT_B] = distinct_b
            table[row + A_DISTINCT_COUNTRY] = distinct_country
            table[row + A_DISTINCT_MCC] = distinct_mcc
            table[row + A_DECLINED] = declined
            table[row + A_SMALL] = small
            table[row + A_NEARLIMIT] = near
            if plan[needs + window] & NEED_ORDER:
                _store_order(table, row, amount, amounts, count)
            window += 1
            continue
        if i < 0:
            if ti <= t:
                at = buckets_at + (buckets + i) * W_BUCKET
                count += state[at + 1]
                total += state[at + 2]
            i -= 1
            continue
        at = log + i * W_LOG
        x = state[at + L_AMOUNT]
        if person:
            amounts[count] = x
            # Welford (1962), of amounts less the newest one: exactly 0 for equal amounts, and no digit is lost where large amounts
            # differ by little, since a sample's own member is never more than sqrt(n) deviations from its mean
            if count == 0:
                pivot = x
            delta = (x - pivot) - mean
            mean += delta / (count + 1)
            m2 += delta * ((x - pivot) - mean)
            low = min(low, x)
            high = max(high, x)
            near += 1 if NEARLIMIT_LOW_MINOR <= x <= NEARLIMIT_HIGH_MINOR else 0
        count += 1
        total += x
        small += 1 if x <= SMALL_AMOUNT_MINOR else 0
        packed = state[at + L_PACKED]
        declined += (packed >> 32) & FLAG_DECLINED
        if plan[needs + window] & NEED_DISTINCT:
            distinct_a += _set_add(scratch, 0, state[at + L_A])
            distinct_b += _set_add(scratch, 1, state[at + L_B])
            if person:
                distinct_country += _set_add(scratch, 2, packed & 0xFFFF)
                distinct_mcc += _set_add(scratch, 3, (packed >> 16) & 0xFFFF)
        i -= 1


@njit("void(int64[::1], int64, int64, int64, float64[::1])", cache=True)
def _delayed(state: Ints, t: int, delay: int, window: int, pair: Floats) -> None:
    """Transactions in ``(t - delay - window, t - delay]`` and the share of them known to be fraud; (0, 0) when there is none."""
    newest, oldest = t - delay, t - delay - window
    log, n = _log_at(state), state[H_LOG]
    count = _upper_bound(state, log, W_LOG, n, newest) - _upper_bound(state, log, W_LOG, n, oldest)
    labels, m = HEADER, state[H_LABELS]
    fraud = _upper_bound(state, labels, W_LABEL, m, newest) - _upper_bound(state, labels, W_LABEL, m, oldest)
    buckets = _buckets_at(state)
    for i in range(
        _upper_bound(state, buckets, W_BUCKET, state[H_BUCKETS], oldest),
        _upper_bound(state, buckets, W_BUCKET, state[H_BUCKETS], newest),
    ):
        count += state[buckets + i * W_BUCKET + 1]
        fraud += state[buckets + i * W_BUCKET + 3]
    pair[0] = count
    # a label may be known of a transaction that this log never held: the share stays a share
    pair[1] = min(1.0, fraud / count) if count > 0 else 0.0


@njit("void(int64[::1], int64[::1], int64, int64, float64[::1])", cache=True)
def _movement(state: Ints, event: Ints, oldest: int, position: int, pair: Floats) -> None:
    """Distance in km and implied speed in km/h from the latest transaction of ``[oldest, position)`` that has a position; else NaN."""
    pair[0] = math.nan
    pair[1] = math.nan
    if event[E_LAT] == MISSING or event[E_LON] == MISSING:
        return
    log = _log_at(state)
    for i in range(position - 1, oldest - 1, -1):
        latlon = state[log + i * W_LOG + L_LATLON]
        if latlon != MISSING:
            lat = latlon >> 32
            lon = ((latlon & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
            pair[0] = haversine_km(lat, lon, event[E_LAT], event[E_LON])
            elapsed_ms = max(MIN_ELAPSED_MS, event[E_T] - state[log + i * W_LOG + L_T])
            pair[1] = pair[0] / (elapsed_ms / 3_600_000.0)
            return


@njit("int64(int64[::1], int64, int64, int64, int64, int64)", cache=True)
def _in_log(state: Ints, oldest: int, position: int, column: int, mask: int, value: int) -> int:
    """Whether an entry of ``[oldest, position)`` has ``value`` in a column (masked)."""
    log = _log_at(state)
    for i in range(position - 1, oldest - 1, -1):
        if state[log + i * W_LOG + column] & mask == value:
            return 1
    return 0


@njit("float64(int64[::1], int64, int64)", cache=True)
def _first_seen(state: Ints, position: int, a: int) -> float:
    """1.0 if the counterparty is in neither the log before ``position`` nor the remembered older ones."""
    if a == 0:
        return math.nan
    if _in_log(state, 0, position, L_A, -1, a):
        return 0.0
    seen = _seen_at(state)
    for i in range(state[H_SEEN]):
        if state[seen + i] == a:
            return 0.0
    return 1.0


@njit("void(int64[::1], int64[::1], int64, int64, int64, int64[::1], int64[::1], float64[::1])", cache=True)
def _features(state: Ints, event: Ints, position: int, a: int, b: int, plan: Ints, scratch: Ints, out: Floats) -> None:
    windows, delayed, features = plan[P_WINDOWS], plan[P_DELAYED], plan[P_FEATURES]
    table = np.full((windows + 1) * A_WINDOWED, math.nan)
    _scan_windows(state, event, position, a, b, plan, scratch, table)
    pair = np.empty(2)
    t = event[E_T]
    delays = PLAN_HEADER + 2 * windows
    wanted = delays + 2 * delayed
    fresh = state[H_TOTAL_COUNT] == 0 or t - state[H_MAX_T] > plan[P_LIFETIME]
    # the log is pruned after an event: what this event will drop is too old for it already
    oldest = _upper_bound(state, _log_at(state), W_LOG, position, t - plan[P_RETENTION])
    for f in range(features):
        aggregate, index = plan[wanted + 2 * f], plan[wanted + 2 * f + 1]
        value = math.nan
        if aggregate == A_FRAUD:
            labels, m = HEADER, state[H_LABELS]
            value = _upper_bound(state, labels, W_LABEL, m, t) - _upper_bound(state, labels, W_LABEL, m, t - plan[PLAN_HEADER + index])
        elif aggregate < A_WINDOWED:
            value = table[index * A_WINDOWED + aggregate]
        elif aggregate in (A_DELAYED_COUNT, A_DELAYED_RISK):
            _delayed(state, t, plan[delays + 2 * index], plan[delays + 2 * index + 1], pair)
            value = pair[aggregate - A_DELAYED_COUNT]
        elif aggregate == A_SECONDS_SINCE_PREVIOUS:
            if position > oldest:
                value = (t - state[_log_at(state) + (position - 1) * W_LOG]) / 1000.0
        elif aggregate in (A_KM, A_KMH):
            _movement(state, event, oldest, position, pair)
            value = pair[aggregate - A_KM]
        elif aggregate == A_TOTAL_COUNT:
            value = 1 if fresh else state[H_TOTAL_COUNT] + 1
        elif aggregate == A_TOTAL_MEAN:
            value = event[E_AMOUNT] if fresh else (state[H_TOTAL_SUM] + event[E_AMOUNT]) / (state[H_TOTAL_COUNT] + 1)
        elif aggregate == A_FIRST_SEEN_A:
            value = 1.0 if fresh and a != 0 else _first_seen(state, position, a)
        elif aggregate == A_FIRST_SEEN_B:
            if b != 0:
                value = 1.0 - _in_log(state, oldest, position, L_B, -1, b)
        elif aggregate == A_FIRST_SEEN_COUNTRY:
            if event[E_COUNTRY] != 0:
                value = 1.0 - _in_log(state, oldest, position, L_PACKED, 0xFFFF, event[E_COUNTRY])
        elif aggregate == A_AGE_SECONDS:
            value = 0.0 if fresh else max(0.0, (t - state[H_FIRST_T]) / 1000.0)
        out[f] = value


# --- writing: apply an event, a label ---------------------------------------------------------------------------------------


@njit("int64[::1](int64[::1], int64, int64)", cache=True)
def _remember(state: Ints, a: int, cap: int) -> Any:
    """Put a counterparty that leaves the log at the young end of the remembered ones."""
    if a == 0 or cap == 0:
        return state
    state = _with_room(state, 0, min(cap, state[H_SEEN] + 1), 0, 0)
    at, n = _seen_at(state), state[H_SEEN]
    for i in range(n):
        if state[at + i] == a:
            _drop_front(state, at + i, n - i, 1)
            state[at + n - 1] = a
            return state
    if n >= cap:
        _drop_front(state, at, n, n - cap + 1)
        n = cap - 1
    state[at + n] = a
    state[H_SEEN] = n + 1
    return state


@njit("int64[::1](int64[::1], int64, int64, int64, int64)", cache=True)
def _into_bucket(state: Ints, start: int, count: int, total: int, fraud: int) -> Any:
    at, n = _buckets_at(state), state[H_BUCKETS]
    place = _upper_bound(state, at, W_BUCKET, n, start)
    if place == 0 or state[at + (place - 1) * W_BUCKET] != start:
        state = _with_room(state, 0, 0, n + 1, 0)
        at = _buckets_at(state)
        for i in range(at + n * W_BUCKET - 1, at + place * W_BUCKET - 1, -1):
            state[i + W_BUCKET] = state[i]
        state[at + place * W_BUCKET] = start
        for i in range(1, W_BUCKET):
            state[at + place * W_BUCKET + i] = 0
        state[H_BUCKETS] = n + 1
        place += 1
    at += (place - 1) * W_BUCKET
    state[at + 1] += count
    state[at + 2] += total
    state[at + 3] += fraud
    return state


@njit("int64[::1](int64[::1], int64[::1])", cache=True)
def _prune(state: Ints, plan: Ints) -> Any:
    """Drop what no window can reach, measured from the newest event; fold the oldest half of an overfull head."""
    horizon = state[H_MAX_T] - plan[P_RETENTION]
    log = _log_at(state)
    drop = _upper_bound(state, log, W_LOG, state[H_LOG], horizon)
    if drop > 0:
        for i in range(drop):
            state = _remember(state, state[_log_at(state) + i * W_LOG + L_A], plan[P_SEEN_CAP])
        _drop_front(state, _log_at(state), state[H_LOG] * W_LOG, drop * W_LOG)
        state[H_LOG] -= drop
    drop = _upper_bound(state, HEADER, W_LABEL, state[H_LABELS], horizon)
    if drop > 0:
        _drop_front(state, HEADER, state[H_LABELS] * W_LABEL, drop * W_LABEL)
        state[H_LABELS] -= drop
    drop = _upper_bound(state, _buckets_at(state), W_BUCKET, state[H_BUCKETS], horizon)
    if drop > 0:
        _drop_front(state, _buckets_at(state), state[H_BUCKETS] * W_BUCKET, drop * W_BUCKET)
        state[H_BUCKETS] -= drop
    cap = plan[P_HEAD_CAP]
    if cap > 0 and state[H_LOG] > cap:
        fold = state[H_LOG] // 2
        bucket = plan[P_BUCKET]
        for i in range(fold):
            at = _log_at(state) + i * W_LOG
            t, amount = state[at + L_T], state[at + L_AMOUNT]
            state = _into_bucket(state, t - t % bucket, 1, amount, 0)
        state[H_FOLDED_T] = state[_log_at(state) + (fold - 1) * W_LOG]
        _drop_front(state, _log_at(state), state[H_LOG] * W_LOG, fold * W_LOG)
        state[H_LOG] -= fold
    if cap > 0 and state[H_LABELS] > cap:
        fold = state[H_LABELS] // 2
        for i in range(fold):
            t = state[HEADER + i * W_LABEL]
            state = _into_bucket(state, t - t % plan[P_BUCKET], 0, 0, 1)
        _drop_front(state, HEADER, state[H_LABELS] * W_LABEL, fold * W_LABEL)
        state[H_LABELS] -= fold
    return state


@njit("int64[::1](int64[::1], int64[::1], int64, int64, int64, int64[::1])", cache=True)
def _insert(state: Ints, event: Ints, position: int, a: int, b: int, plan: Ints) -> Any:
    t, amount = event[E_T], event[E_AMOUNT]
    if state[H_TOTAL_COUNT] > 0 and t - state[H_MAX_T] > plan[P_LIFETIME]:
        # a new life: nothing of the old one is remembered, as if its state had expired
        state[H_TOTAL_COUNT], state[H_TOTAL_SUM], state[H_FIRST_T], state[H_FOLDED_T] = 0, 0, MISSING, MISSING
        state[H_LOG], state[H_SEEN], state[H_BUCKETS], position = 0, 0, 0, 0
    state[H_TOTAL_COUNT] += 1
    state[H_TOTAL_SUM] += amount
    state[H_SEQ] += 1
    state[H_FIRST_T] = t if state[H_FIRST_T] == MISSING else min(state[H_FIRST_T], t)
    newest = state[H_MAX_T] == MISSING or t > state[H_MAX_T]
    if newest:
        state[H_MAX_T] = t
    if state[H_FOLDED_T] != MISSING and t <= state[H_FOLDED_T]:
        # its neighbours were folded: it joins them
        if t > state[H_MAX_T] - plan[P_RETENTION]:
            state = _into_bucket(state, t - t % plan[P_BUCKET], 1, amount, 0)
        return state
    n = state[H_LOG]
    state = _with_room(state, 0, 0, 0, n + 1)
    at = _log_at(state)
    for i in range(at + n * W_LOG - 1, at + position * W_LOG - 1, -1):
        state[i + W_LOG] = state[i]
    at += position * W_LOG
    state[at + L_T] = t
    state[at + L_AMOUNT] = amount
    state[at + L_A] = a
    state[at + L_B] = b
    state[at + L_LATLON] = MISSING
    if plan[P_PERSON] and event[E_LAT] != MISSING and event[E_LON] != MISSING:
        state[at + L_LATLON] = (event[E_LAT] << 32) | (event[E_LON] & 0xFFFFFFFF)
    mcc = event[E_MCC] + 1 if event[E_MCC] != MISSING else 0
    declined = (event[E_FLAGS] & FLAG_DECLINED) << 32
    state[at + L_PACKED] = declined | (mcc << 16) | event[E_COUNTRY] if plan[P_PERSON] else declined
    state[at + L_TX] = event[E_TX] if plan[P_KIND] == 0 else 0
    state[H_LOG] = n + 1
    return _prune(state, plan) if newest or plan[P_HEAD_CAP] > 0 or t <= state[H_MAX_T] - plan[P_RETENTION] else state


@njit("int64[::1](int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], boolean)", cache=True)
def observe(state: Ints, event: Ints, plan: Ints, scratch: Ints, out: Floats, apply: bool) -> Any:
    """Evaluate the entity's features as of an event and, with ``apply``, enter the event into its log.

    Args:
        state: the entity's state; changed in place or replaced when ``apply``.
        event: ``int64[EVENT_WORDS]``, see :mod:`fraud.vector`.
        plan: windows and features of the entity's kind, see :mod:`fraud.catalogue`.
        scratch: from :func:`new_scratch`; one per thread.
        out: ``float64[plan features]``, written; NaN is missing.
        apply: False for a request that must leave no trace.

    Returns:
        The state to keep: the same array, or a larger one.
    """
    person = plan[P_PERSON]
    a = event[E_MERCHANT] if person else event[E_CARD]
    b = event[E_DEVICE] if person else event[E_USER]
    log, position = _log_at(state), state[H_LOG]
    while position > 0 and state[log + (position - 1) * W_LOG] > event[E_T]:
        position -= 1
    _features(state, event, position, a, b, plan, scratch, out)
    if apply:
        return _insert(state, event, position, a, b, plan)
    return state


@njit("int64[::1](int64[::1], int64[::1], int64, int64, boolean)", cache=True)
def apply_label(state: Ints, plan: Ints, tx_time: int, tx_hash: int, is_fraud: bool) -> Any:
    """Enter a label into the entity's log: fraud is remembered by transaction, once; a reversal takes it back."""
    state[H_SEQ] += 1
    at, n = HEADER, state[H_LABELS]
    for i in range(n):
        if state[at + i * W_LABEL + 1] == tx_hash:
            if not is_fraud:
                _drop_front(state, at + i * W_LABEL, (n - i) * W_LABEL, W_LABEL)
                state[H_LABELS] = n - 1
            return state
    if not is_fraud:
        return state
    state = _with_room(state, n + 1, 0, 0, 0)
    at = HEADER
    place = _upper_bound(state, at, W_LABEL, n, tx_time)
    for i in range(at + n * W_LABEL - 1, at + place * W_LABEL - 1, -1):
        state[i + W_LABEL] = state[i]
    state[at + place * W_LABEL] = tx_time
    state[at + place * W_LABEL + 1] = tx_hash
    state[H_LABELS] = n + 1
    return _prune(state, plan) if state[H_MAX_T] != MISSING else state


@njit("boolean(int64[::1], int64)", cache=True)
def has_transaction(state: Ints, tx_hash: int) -> bool:
    """Whether a card's log holds this transaction already: the duplicate test of the stream."""
    return _in_log(state, 0, state[H_LOG], L_TX, -1, tx_hash) == 1


@njit(
    "void(int64[:, ::1], int64[:, ::1], int64[::1], int64[::1], int64[::1], int64[::1], int64, float64[:, ::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def replay(
    events: Ints,
    labels: Ints,
    items: Ints,
    starts: Ints,
    plan: Ints,
    scratch: Ints,
    column: int,
    out: Floats,
    event_seqs: Ints,
    label_seqs: Ints,
) -> None:
    """Run many entities' histories through :func:`observe` and :func:`apply_label`, in a given order.

    Args:
        events: ``int64[N + P, EVENT_WORDS]``; the last P are evaluated where they stand and leave no trace.
        labels: ``int64[M, 3]``: transaction time, transaction hash, 1 for fraud.
        items: the histories one after the other: event ``i`` as ``i``, label ``j`` as ``-1 - j``.
        starts: ``int64[G + 1]``: where each entity's history starts in ``items``.
        plan: of the entities' kind.
        scratch: from :func:`new_scratch`.
        column: first column of this kind in ``out``.
        out: ``float64[N + P, F]``, written.
        event_seqs: ``int64[N]``: the number at which the log stood after each event, written.
        label_seqs: ``int64[M]``, likewise.
    """
    features = plan[P_FEATURES]
    for g in range(starts.shape[0] - 1):
        state = _allocate(0, 0, 0, 4)
        for k in range(starts[g], starts[g + 1]):
            item = items[k]
            if item >= event_seqs.shape[0]:
                observe(state, events[item], plan, scratch, out[item, column : column + features], False)
            elif item >= 0:
                state = observe(state, events[item], plan, scratch, out[item, column : column + features], True)
                event_seqs[item] = state[H_SEQ]
            else:
                label = -1 - item
                state = apply_label(state, plan, labels[label, 0], labels[label, 1], labels[label, 2] == 1)
                label_seqs[label] = state[H_SEQ]
