"""When a growing resource reaches its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from amidiag.model import Exhaustion, Verdict
from amidiag.series.blocks import Blocks, cut_life, last_life
from amidiag.series.rise import grain

_PEAK = 0.98
# At the soonest the largest peak seen comes in time, at the latest only a middling one.
_SOONEST_PEAK, _LATEST_PEAK = 1.0, 0.5


def forecast(
    values: Sequence[float],
    verdict: Verdict,
    *,
    limit: float,
    name: str,
    seconds_per_sample: float,
    restarts: Sequence[int] = (),
) -> Exhaustion | None:
    """Seconds from the last sample until `limit` is reached, if growth goes on as `verdict` measured it.

    It is the bursts that hit the limit, not the troughs: the room left is the limit less the trough
    now less the 98 % quantile of the peaks above their trough (FACTS 9). `low` and `high` span the
    interval of the rate and the peaks seen; `high` is None where the rate may be 0.

    Args:
        values: the series that `verdict` judged, in the unit of `limit`.
        name: what the limit is called (`nofile`, `memory.max`).
        seconds_per_sample: the pace at which samples become time.
        restarts: as given to `judge`.

    Returns None where nothing grows, or too little is known of the series.
    """
    if verdict.kind not in ("leak", "growing") or verdict.rate is None or not verdict.rate > 0:
        return None
    _, life = last_life(values, restarts)
    blocks = cut_life(life, verdict.unit)
    if blocks is None:
        return None
    now = blocks.levels[-1] + verdict.rate * (len(life) - 1 - blocks.positions[-1])
    peaks = sorted(_peaks(life, blocks, verdict.rate))
    room, step = limit - now, grain(life)
    reached = max(0.0, room - _quantile(peaks, _PEAK)) / verdict.rate
    soonest, latest = _interval(
        max(0.0, room - step - _quantile(peaks, _SOONEST_PEAK)),
        max(0.0, room + step - _quantile(peaks, _LATEST_PEAK)),
        verdict,
        samples=len(blocks.levels) * blocks.length * 3 / 4,
    )
    return Exhaustion(
        name,
        reached * seconds_per_sample,
        None if soonest is None else min(soonest, reached) * seconds_per_sample,
        None if latest is None else max(latest, reached) * seconds_per_sample,
    )


def _interval(
    least_room: float, most_room: float, verdict: Verdict, samples: float
) -> tuple[float | None, float | None]:
    """In how many samples the room is used up, at the soonest and at the latest; None where never.

    After t samples growth is rate·t, off by half·√(t² + t·samples): the rate is known from `samples`
    samples only, and what is to come will wander about it as what has been did. So the room is used
    up at the roots of (rate·t − room)² = half²·(t² + t·samples).
    """
    if verdict.rate is None or verdict.low is None or verdict.high is None:
        return None, None
    rate, half = verdict.rate, (verdict.high - verdict.low) / 2
    square = rate**2 - half**2
    soonest = 0.0
    if least_room > 0:
        linear = 2 * rate * least_room + half**2 * samples
        # In the form that stays exact where `square` is near 0, or below.
        soonest = 2 * least_room**2 / (linear + math.sqrt(max(0.0, linear**2 - 4 * square * least_room**2)))
    if square <= 0:
        return soonest, None
    linear = 2 * rate * most_room + half**2 * samples
    return soonest, (linear + math.sqrt(max(0.0, linear**2 - 4 * square * most_room**2))) / (2 * square)


def _peaks(life: Sequence[float], blocks: Blocks, rate: float) -> list[float]:
    """How far each block's peak stands above its trough, the rise within the block taken out."""
    first = len(blocks.levels) // 4
    offset = len(life) - len(blocks.levels) * blocks.length
    peaks = []
    for block in range(first, len(blocks.levels)):
        level, position = blocks.levels[block], blocks.positions[block]
        start = offset + block * blocks.length
        heights = (life[i] - level - rate * (i - position) for i in range(start, start + blocks.length))
        peaks.append(max(0.0, *(height for height in heights if not math.isnan(height))))
    return peaks


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
