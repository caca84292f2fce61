"""False alarms, power and coverage of the verdict rule, beside the rules that people use instead.

    python benchmarks/verdicts.py --runs 400

Prints, per simulated family (tests/series/families.py), the share of series that each rule calls a
leak: a false alarm in a healthy family, power in a leaking one. For our rule also the other
verdicts, how often its interval covers the true rate, and `stable` said of a leak above the
tolerance. Then the time of one decision.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "series"))

import families

from amidiag.model import Verdict
from amidiag.series import TOLERANCE, judge
from amidiag.series.blocks import last_life
from amidiag.series.quantiles import t_quantile

Rule = Callable[[families.Series], bool]


def known(series: families.Series) -> list[float]:
    """The known samples of the last life, as our rule gets them."""
    _, life = last_life(series.values, series.restarts)
    return [value for value in life if not math.isnan(value)]


def least_squares(series: families.Series) -> bool:
    """A slope above 0 at 99.9 %, by the t-test that every statistics package prints."""
    values = known(series)
    n = len(values)
    if n < 3:
        return False
    middle_x, middle_y = (n - 1) / 2, math.fsum(values) / n
    xx = n * (n * n - 1) / 12
    xy = math.fsum((i - middle_x) * (value - middle_y) for i, value in enumerate(values))
    slope = xy / xx
    left_over = math.fsum((value - middle_y - slope * (i - middle_x)) ** 2 for i, value in enumerate(values))
    error = math.sqrt(left_over / (n - 2) / xx)
    return slope > t_quantile(0.999, n - 2) * error


def last_minus_first(series: families.Series) -> bool:
    """More than 10 FDs or threads, or 200 MiB, above the first sample."""
    values = known(series)
    return len(values) > 1 and values[-1] - values[0] > (200 * families.MIB if series.unit == "byte" else 10)


def psleak(series: families.Series) -> bool:
    """psutil's psleak, put on a series: growth in each of ten retries."""
    values = known(series)
    if len(values) < 11:
        return False
    ends = [values[round(i * (len(values) - 1) / 10)] for i in range(11)]
    return all(later > earlier for earlier, later in pairwise(ends))


PEERS: dict[str, Rule] = {
    "least sq.": least_squares,
    "last-first": last_minus_first,
    "psleak": psleak,
}


class Tally:
    """What the rules said of one family."""

    def __init__(self) -> None:
        self.series = 0
        self.kinds: Counter[str] = Counter()
        self.peers: Counter[str] = Counter()
        self.intervals = self.covering = self.wrongly_stable = 0

    def add(self, series: families.Series, verdict: Verdict) -> None:
        """Count one series and its verdict."""
        self.series += 1
        self.kinds[verdict.kind] += 1
        self.peers.update(name for name, rule in PEERS.items() if rule(series))
        if series.rate is None:
            return
        if verdict.low is not None and verdict.high is not None:
            self.intervals += 1
            slack = 1e-9 * series.rate
            self.covering += verdict.low - slack <= series.rate <= verdict.high + slack
        self.wrongly_stable += verdict.kind == "stable" and series.rate > TOLERANCE[series.unit]

    def share(self, count: int) -> str:
        """A count as a percentage of the series."""
        return f"{100 * count / self.series:10.2f}"


def measure(family: str, make: families.Family, runs: int, lengths: tuple[int, ...], seed: int) -> Tally:
    """Judge `runs` series of one family, spread over the lengths."""
    tally = Tally()
    for i in range(runs):
        series = make(random.Random(f"{seed} {family} {i}"), lengths[i % len(lengths)])
        tally.add(series, judge(series.values, series.unit, series.restarts))
    return tally


def table(title: str, group: Mapping[str, families.Family], args: argparse.Namespace) -> None:
    """Print one group of families, a row each."""
    kinds = ("leak", "growing", "stable", "undecided")
    head = "".join(f"{name:>10}" for name in (*kinds, *PEERS))
    print(f"\n{title:<26}{head}{'coverage':>10}{'wrong stable':>14}")
    for family, make in group.items():
        tally = measure(family, make, args.runs, args.lengths, args.seed)
        row = "".join(tally.share(tally.kinds[kind]) for kind in kinds)
        row += "".join(tally.share(tally.peers[name]) for name in PEERS)
        if tally.intervals:
            row += f"{tally.covering / tally.intervals:10.3f}{tally.wrongly_stable:14}"
        print(f"{family:<26}{row}", flush=True)


def time_of_a_decision(points: int) -> str:
    """Median time of one decision over 200, and what our peers take."""
    rng = random.Random(1)
    series = {
        "FDs": families.LEAKING["leak_under_bursts"](rng, points),
        "bytes": families.LEAKING["quarter_mib_in_noise"](rng, points),
    }
    rules: dict[str, Callable[[families.Series], object]] = {
        "judge": lambda one: judge(one.values, one.unit),
        "least squares": least_squares,
    }
    words = []
    for what, one in series.items():
        for name, rule in rules.items():
            times = []
            for _ in range(200):
                begin = time.perf_counter()
                rule(one)
                times.append(time.perf_counter() - begin)
            words.append(f"{name} {what} {1000 * sorted(times)[100]:.3f} ms")
    return f"{points} points: " + ", ".join(words)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400, help="series per family (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--lengths",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        default=families.LENGTHS,
        help="lengths of the series, with commas",
    )
    args = parser.parse_args()
    print(f"{args.runs} series per family, lengths {args.lengths}; % of series")
    table("healthy: false alarms", families.HEALTHY, args)
    table("still rising at the end", families.LIMITS, args)
    table("leaking: power", families.LEAKING, args)
    print()
    for points in (60, 500, 5000):
        print(time_of_a_decision(points))


if __name__ == "__main__":
    main()
