"""What is said of a live process per poll, also where polls are faster than the looks; the truth is known."""

import math
import os

import pytest

from amidiag.model import SeriesReport
from amidiag.procfs.observe import observe_tree
from amidiag.series.live import LiveResult, fold, judge_live
from amidiag.series.recording import Recording

BURST = (0, 3, 1, 2)
STEP_S = 0.2


def recording(fds: list[float], polls: list[float] | None) -> Recording:
    """One look every 0.2 s at a process with `fds` open, with `polls` on its status page (None: no page)."""
    made = Recording()
    for i, open_ in enumerate(fds):
        counters = {} if polls is None else {"polls": polls[i]}
        made.add_row({"fd": open_}, counters, 100.0 + i * STEP_S)
    # Only its limit and its PID are looked at.
    made.last = observe_tree(os.getpid())
    return made


def looks(count: int, each: int, leak: float = 0.0) -> Recording:
    """`count` looks with `each` polls between two of them; every poll leaks `leak` FDs."""
    polls = [float(i * each) for i in range(count)]
    return recording([20.0 + BURST[i % 4] + math.floor(leak * p) for i, p in enumerate(polls)], polls)


def fd(result: LiveResult) -> SeriesReport:
    (entry,) = result.series
    return entry


def test_the_bound_is_per_poll_and_not_per_look() -> None:
    one, five = (fd(judge_live(looks(600, each))) for each in (1, 5))
    assert (one.verdict, five.verdict) == ("stable", "stable")
    assert one.cycles == 598
    assert five.cycles == 5 * 598
    assert one.upper_bound is not None
    assert one.upper_bound <= 0.01
    assert five.upper_bound == pytest.approx(one.upper_bound / 5)
    assert any("one sample spans 5 polls" in line for line in five.evidence)
    assert not any("spans" in line for line in one.evidence)


def test_what_is_tolerated_per_poll_does_not_depend_on_the_looks() -> None:
    # 150 looks at 5 polls each say of one poll what 750 looks at every poll do.
    entry = fd(judge_live(looks(150, 5)))
    assert entry.verdict == "stable"
    assert entry.upper_bound is not None
    assert entry.upper_bound <= 0.01


def test_what_is_needed_is_counted_in_polls() -> None:
    entry = fd(judge_live(looks(60, 5)))
    assert entry.verdict == "undecided"
    assert entry.samples_needed is not None
    more = math.ceil(entry.samples_needed / 5)
    assert fd(judge_live(looks(60 + more, 5))).verdict == "stable"
    assert entry.samples_needed > more


def test_the_rate_of_a_leak_and_its_forecast_are_true_at_five_polls_a_look() -> None:
    seen = looks(200, 5, leak=0.4)
    entry = fd(judge_live(seen))
    assert entry.verdict == "leak"
    assert entry.rate is not None
    assert entry.rate.per == "polls"
    assert entry.rate.low <= 0.4 <= entry.rate.high
    assert entry.exhausts is not None
    assert seen.last is not None
    limit = seen.last.processes[0].fds.soft_limit
    assert limit is not None
    now = seen.values("fd")[-1]
    # 5 polls in 0.2 s at 0.4 FDs: 10 FDs a second.
    assert entry.exhausts.in_seconds == pytest.approx((limit - now) / 10, rel=0.1)


def test_a_rate_that_follows_no_counter_is_per_poll_too() -> None:
    # Nothing grows, so no driver is named: the rate is that of the rows.
    one, five = (fd(judge_live(looks(100, each))).rate for each in (1, 5))
    assert one is not None
    assert five is not None
    assert one.per == five.per == "polls"
    assert five.high - five.low == pytest.approx((one.high - one.low) / 5)


def test_a_leak_per_poll_is_even_however_uneven_the_pace() -> None:
    # 1, 2, 8 polls between two looks by turns, and once 40: rows of equal time would rise in jerks.
    polls = [0.0]
    for i in range(400):
        polls.append(polls[-1] + (40 if i == 200 else (1, 2, 8)[i // 20 % 3]))
    result = judge_live(recording([20.0 + p for p in polls], polls))
    entry = fd(result)
    assert entry.verdict == "leak"
    assert (entry.driver, result.reasons) == ("polls", ())
    assert entry.rate is not None
    assert entry.rate.low <= 1 <= entry.rate.high


def test_time_is_that_of_the_rows_also_when_the_process_idles_before_and_after() -> None:
    # 10 s before the first poll, and 10 s after the last: the pace of the polls is none of that.
    busy = looks(200, 1, leak=1.0)
    fds, polls = busy.values("fd"), busy.counters["polls"]
    idle = recording([fds[0]] * 50 + fds + [fds[-1]] * 50, [0.0] * 50 + polls + [polls[-1]] * 50)
    first, second = fd(judge_live(busy)).exhausts, fd(judge_live(idle)).exhausts
    assert first is not None
    assert second is not None
    assert second.in_seconds == pytest.approx(first.in_seconds, rel=0.02)


@pytest.mark.parametrize(
    ("count", "each", "said", "needed"),
    [
        (20, 1, "only 18 whole polls were seen and 24 are needed", 6),
        (25, 1, "only 23 whole polls were seen and 24 are needed", 1),
        (20, 10, "the 190 polls seen were faster than the looks and make only 18 samples", 60),
        (3, 0, "only 0 whole polls were seen", 25),
    ],
)
def test_the_real_reason_why_nothing_is_decided(count, each, said, needed) -> None:
    result = judge_live(looks(count, each))
    entry = fd(result)
    assert entry.verdict == "undecided"
    assert said in result.reasons[0]
    assert result.reasons[0] in entry.evidence
    assert entry.samples_needed == needed
    assert result.cycles == (count - 1) * each
    if each:
        # As many more polls as were said, at the same pace, are enough for polls to be judged.
        enough = judge_live(looks(count + needed // each, each))
        assert enough.reasons == ()


def test_without_a_status_page() -> None:
    result = judge_live(recording([20.0 + i for i in range(100)], None))
    assert fd(result).verdict == "growing"
    assert fd(result).samples_needed is None
    assert result.cycles is None
    assert "no status page" in result.reasons[0]
    rate = fd(result).rate
    assert rate is not None
    assert rate.per == "seconds"
    assert rate.value == pytest.approx(1 / STEP_S)


def test_a_status_page_that_comes_late_or_is_missed_once() -> None:
    fds = [20.0 + BURST[i % 4] for i in range(700)]
    polls = [math.nan] * 50 + [float(i) for i in range(650)]
    polls[300] = math.nan
    result = judge_live(recording(fds, polls))
    assert result.cycles == 649
    assert fd(result).verdict == "stable"


def test_a_row_is_the_least_while_the_counter_stood_there() -> None:
    folded = fold(recording([9, 5, 7, 8, 6, 9, 4], [0, 1, 1, 2, 2, 2, 3]), "polls")
    assert folded.values("fd") == [5, 6]
    assert folded.counters["polls"] == [1, 2]
    assert folded.times == pytest.approx([100.0 + STEP_S, 100.0 + 3 * STEP_S])


def test_counters_that_keep_step_to_within_one_are_not_told_apart_by_chance() -> None:
    recording = Recording()
    for i in range(120):
        # A poll counts before its loader; every third look falls between the two.
        late = i % 3 == 0
        recording.add_row(
            {"fd": 10.0 + 2 * i},
            {"polls": float(i), "loaders": float(i - late), "batches": float(i // 7)},
            i / 10,
        )
    folded = fold(recording, "polls")
    assert folded.counters["loaders"] == folded.counters["polls"]
    assert folded.counters["batches"] != folded.counters["polls"]
