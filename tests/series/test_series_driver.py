"""Which counter growth follows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from amidiag.series import find_driver

NAN = math.nan
COUNTERS = ("polls", "jobs", "loaders", "batches", "images", "posts", "seconds")
Soak = tuple[list[float], dict[str, list[float]]]


def soak(seed: int, cycles: int, noise: Callable[[random.Random], float] = lambda rng: 0.0) -> Soak:
    """A lock-step soak: each poll builds 0, 1 or 2 loaders of 2 FDs each, some of which have a job's work."""
    rng = random.Random(seed)
    now = dict.fromkeys(COUNTERS, 0.0)
    counters: dict[str, list[float]] = {name: [] for name in COUNTERS}
    values = []
    for _ in range(cycles):
        now["polls"] += 1
        now["seconds"] += rng.uniform(0.05, 0.3)
        for _ in range(rng.choice((0, 1, 2))):
            now["loaders"] += 1
            if rng.random() < 0.15:
                batches = rng.randint(1, 3)
                now["jobs"] += 1
                now["batches"] += batches
                now["posts"] += batches
                now["images"] += batches * rng.randint(3, 8)
        for name in COUNTERS:
            counters[name].append(now[name])
        values.append(47 + 2 * now["loaders"] + noise(rng))
    return values, counters


@pytest.mark.parametrize("cycles", [24, 60, 200])
def test_two_fds_per_loader_are_exactly_two(cycles: int) -> None:
    for seed in range(20):
        values, counters = soak(seed, cycles)
        driver = find_driver(values, counters)
        assert driver.name == "loaders"
        assert driver.tied == ()
        assert driver.rate is not None
        assert driver.rate.per == "loaders"
        assert (driver.rate.value, driver.rate.low, driver.rate.high) == (2.0, 2.0, 2.0)
        assert "exactly" in driver.evidence[0]
        assert any(line.startswith("not polls") for line in driver.evidence)


def test_bursts_do_not_hide_the_driver() -> None:
    for seed in range(20):
        driver = find_driver(*soak(seed, 200, lambda rng: rng.choice((0, 0, 40))))
        assert driver.name == "loaders"
        assert driver.rate is not None
        assert driver.rate.value == pytest.approx(2.0, abs=0.2)


def test_noise_on_fds_widens_the_interval_which_still_covers() -> None:
    covered = 0
    for seed in range(100):
        driver = find_driver(*soak(seed, 200, lambda rng: rng.randint(0, 12)))
        assert driver.name == "loaders"
        assert driver.rate is not None
        assert driver.rate.high > driver.rate.low
        covered += driver.rate.low <= 2.0 <= driver.rate.high
    assert covered >= 95


def test_counters_that_move_together_cannot_be_told_apart() -> None:
    polls = [float(i) for i in range(100)]
    counters = {
        "polls": polls,
        "loaders": [3 * i for i in polls],
        "jobs": [i + 7 for i in polls],
        "images": [0.0] * 100,
    }
    driver = find_driver([47 + 6 * i for i in polls], counters)
    assert driver.name == "loaders"
    assert driver.tied == ("jobs", "polls")
    assert driver.rate is not None
    assert driver.rate.value == 2.0
    assert "cannot be told apart" in driver.evidence[-1]


def test_growth_with_time_follows_the_seconds() -> None:
    rng = random.Random(1)
    seconds, polls, values = [0.0], [0.0], [40.0]
    for i in range(1, 300):
        seconds.append(seconds[-1] + rng.choice((0.1, 0.1, 1.5)))
        polls.append(float(i))
        values.append(40 + math.floor(seconds[-1] * 3))
    driver = find_driver(values, {"polls": polls, "seconds": seconds})
    assert driver.name == "seconds"
    assert driver.rate is not None
    assert driver.rate.low <= 3.0 <= driver.rate.high


def test_growth_of_memory_follows_images() -> None:
    rng = random.Random(2)
    images, posts = [0.0], [0.0]
    for _ in range(300):
        images.append(images[-1] + rng.randint(0, 20))
        posts.append(posts[-1] + 1)
    values = [5e8 + 100_000 * count + rng.gauss(0, 3e5) for count in images]
    driver = find_driver(values, {"images": images, "posts": posts}, unit="byte")
    assert driver.name == "images"
    assert driver.rate is not None
    assert driver.rate.low <= 100_000 <= driver.rate.high


def test_what_does_not_grow_has_no_driver() -> None:
    _, counters = soak(1, 100)
    assert find_driver([40.0] * 100, counters).name is None
    falling = find_driver([400.0 - i for i in range(100)], counters)
    assert (falling.name, falling.rate) == (None, None)
    assert "does not grow" in falling.evidence[0]


def test_counters_that_stand_still_or_are_unknown_are_left_out() -> None:
    values, counters = soak(3, 100)
    for nothing in ([0.0] * 100, [NAN] * 100, [NAN] * 70 + [float(i) for i in range(30)]):
        driver = find_driver(values, {"jobs": nothing, "loaders": counters["loaders"]})
        assert (driver.name, driver.tied) == ("loaders", ())
    alone = find_driver(values, {"jobs": [0.0] * 100})
    assert alone.name is None
    assert "no counter moved" in alone.evidence[0]
    assert find_driver(values, {}).name is None


def test_a_counter_that_moved_in_the_warm_up_only_drives_nothing() -> None:
    values, counters = soak(4, 100)
    start = [float(min(i, 10)) for i in range(100)]
    assert find_driver(values, {"jobs": start, "loaders": counters["loaders"]}).name == "loaders"
    assert find_driver(values, {"jobs": start}).name is None


def test_unknown_samples_are_left_out() -> None:
    values, counters = soak(5, 200)
    rng = random.Random(5)
    for i in rng.sample(range(200), 30):
        values[i] = NAN
    for i in rng.sample(range(200), 30):
        counters["polls"][i] = NAN
    driver = find_driver(values, counters)
    assert driver.name == "loaders"
    assert driver.rate is not None
    assert driver.rate.value == 2.0


def test_only_the_last_life_counts() -> None:
    old_values, old = soak(6, 150)
    new_values, new = soak(7, 100)
    driver = find_driver(
        [v + 500 for v in old_values] + new_values, {name: old[name] + new[name] for name in COUNTERS}
    )
    assert driver.rate is not None
    assert (driver.name, driver.rate.value, driver.rate.low) == ("loaders", 2.0, 2.0)
    told = find_driver(
        [v + 500 for v in old_values] + new_values,
        {"loaders": old["loaders"] + [c + 1000 for c in new["loaders"]]},
        restarts=[150],
    )
    assert told.rate is not None
    assert told.rate.low == 2.0


@pytest.mark.parametrize("length", range(6))
def test_too_few_samples_have_no_driver(length: int) -> None:
    values, counters = soak(8, length)
    assert find_driver(values, counters).name is None


def test_a_counter_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'polls' has 3 values, the series 4"):
        find_driver([1.0] * 4, {"polls": [1.0] * 3})
    with pytest.raises(ValueError, match="unit"):
        find_driver([1.0] * 4, {}, unit="pages")  # type: ignore[arg-type]
