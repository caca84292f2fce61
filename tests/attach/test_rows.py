"""Rows of what is open: which frame is the program's own, what is counted, and what a mark in time leaves out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from amidiag.attach.grouping import NO_SITE, call_sites, group
from amidiag.attach.own_frame import own_frame
from amidiag.attach.saved_trace import Saved, SavedTraceError, from_json, opened_since, save, to_json
from amidiag.attach.trace_reading import Opened, TraceReading
from amidiag.attach.trace_region import Frame, Made

STDLIB = "/usr/lib/python3.11/multiprocessing/context.py"
TORCH = "/venv/lib/python3.11/site-packages/torch/utils/data/dataloader.py"
WORKER = "/venv/lib/python3.11/site-packages/worker/loop.py"
OURS = "/home/me/train.py"


def stack(*frames: str) -> tuple[Frame, ...]:
    """Frames from `file:line function`, innermost first."""
    found = []
    for frame in frames:
        place, _, function = frame.rpartition(" ")
        file, _, line = place.rpartition(":")
        found.append(Frame(file, int(line), function))
    return tuple(found)


@pytest.mark.parametrize(
    ("frames", "own"),
    [
        # The program calls torch, which calls the standard library.
        ((f"{STDLIB}:1 start", f"{TORCH}:2 __init__", f"{OURS}:3 load", f"{OURS}:4 main"), f"{OURS}:3 load"),
        # An installed program: nothing of its author's lies outside of site-packages.
        ((f"{STDLIB}:1 start", f"{TORCH}:2 f", f"{WORKER}:3 poll", f"{WORKER}:4 run"), f"{WORKER}:3 poll"),
        # The script that pip has written for it is not the program.
        ((f"{TORCH}:2 f", f"{WORKER}:3 poll", "/venv/bin/ami:8 <module>"), f"{WORKER}:3 poll"),
        # A library that calls back into the program.
        ((f"{WORKER}:1 f", f"{TORCH}:2 f", f"{WORKER}:3 poll", "/venv/bin/ami:8 <module>"), f"{WORKER}:1 f"),
        # amidiag's own tracer, and its launcher, are nobody's program.
        (
            ("/x/amidiag/target/hook.py:1 f", f"{OURS}:2 f", "/x/amidiag/soak/faults/launcher.py:3 main"),
            f"{OURS}:2 f",
        ),
        ((f"{TORCH}:1 f", "/v/site-packages/amidiag/target/x.py:2 f", "<frozen runpy>:9 run"), f"{TORCH}:1 f"),
        # Only the standard library: the innermost frame is all there is.
        ((f"{STDLIB}:1 start", "/usr/lib/python3.11/threading.py:2 run"), f"{STDLIB}:1 start"),
        (("/usr/lib/python3/dist-packages/six.py:1 f", "/usr/lib/python3.11/runpy.py:2 g"),
         "/usr/lib/python3/dist-packages/six.py:1 f"),
        (("/opt/py/lib/python3.13t/os.py:1 f", "<string>:2 <module>"), "<string>:2 <module>"),
        (("/opt/lib64/python3.12/os.py:1 f", "/app/python/lib/mine.py:2 f"), "/app/python/lib/mine.py:2 f"),
        # The line by which multiprocessing begins a process is nobody's.
        ((f"{TORCH}:1 f", "/usr/lib/python3.11/multiprocessing/spawn.py:2 spawn_main", "<string>:1 <module>"),
         f"{TORCH}:1 f"),
        (("/usr/lib/python311.zip/os.py:1 f", "/srv/bin/tool.py:2 <module>"), "/srv/bin/tool.py:2 <module>"),
    ],
)  # fmt: skip
def test_the_programs_own_frame(frames: tuple[str, ...], own: str) -> None:
    assert str(own_frame(stack(*frames))) == own


A = stack(f"{STDLIB}:1 start", f"{OURS}:10 load", f"{OURS}:90 main")
A_TOO = stack(f"{STDLIB}:2 other", f"{OURS}:10 load", f"{OURS}:90 main")
B = stack(f"{OURS}:20 save", f"{OURS}:90 main")


def made(where: tuple[Frame, ...], at: int, *, thread: int = 7, pid: int = 1) -> Made:
    return Made("pipe", 1, 3, 15, 4, 1_000_000 + at, at * 10**9, thread, 0, where, pid, 5)


def opened(
    inode: int,
    by: Made | None,
    *,
    kind: str = "pipe",
    fd: int | None = 3,
    pid: int = 1,
    bytes_: int | None = None,
    device: int = 15,
) -> Opened:
    return Opened(pid, kind, fd, (device, inode), bytes_, by)


def reading(*things: Opened, alive: bool = True, boot: str = "b", at: int = 0) -> TraceReading:
    started = {one.pid: 100 + one.pid for one in things}
    return TraceReading(alive, "/run/x.trace", things, (), (), boot, at, started)


MIXED = reading(
    opened(1, made(A, 5)),
    opened(1, made(A, 5), fd=4),
    opened(2, made(A_TOO, 1), pid=2),
    opened(3, made(B, 9, thread=8), kind="socket"),
    opened(4, None, kind="shm", fd=None, bytes_=100),
    opened(4, None, kind="shm", pid=2, bytes_=100),
    opened(5, made(B, 2), kind="memfd", bytes_=1 << 20),
    opened(5, made(B, 2), kind="memfd", fd=None, pid=2, bytes_=None),
)


def test_rows_by_the_programs_own_line() -> None:
    rows, rest = group(MIXED)
    # THEN each own line is one row, the most first, with the whole stack that most of it has, innermost last
    assert [(row.group, row.count) for row in rows] == [(f"{OURS}:10 load", 3), (f"{OURS}:20 save", 3)]
    first, second = rows
    assert first.stack == (f"{OURS}:90 main", f"{OURS}:10 load", f"{STDLIB}:1 start")
    assert (first.by_type, first.by_process) == ({"pipe": 3}, {"1": 2, "2": 1})
    assert (first.first_at, first.last_at) == ("1970-01-12T13:46:41+00:00", "1970-01-12T13:46:45+00:00")
    # AND a segment counts once in bytes, also where one process only maps it and may not be asked for its size
    assert (first.bytes, second.bytes) == (0, 1 << 20)
    assert second.by_type == {"memfd": 2, "socket": 1}
    assert rest is not None
    assert (rest.count, rest.bytes, rest.by_type, rest.by_process) == (2, 100, {"shm": 2}, {"1": 1, "2": 1})


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("type", {"pipe": 3, "socket": 1, "memfd": 2}),
        ("thread", {"thread 7 of process 1": 5, "thread 8 of process 1": 1}),
        ("process", {"process 1": 4, "process 2": 2}),
    ],
)
def test_rows_by_something_else(by, groups: dict[str, int]) -> None:
    rows, rest = group(MIXED, by=by)
    assert {row.group: row.count for row in rows} == groups
    assert rest is not None and rest.count == 2


def test_only_some_types() -> None:
    rows, rest = group(MIXED, types=("socket", "shm"))
    assert [(row.count, row.by_type) for row in rows] == [(1, {"socket": 1})]
    assert rest is not None and rest.count == 2
    assert group(MIXED, types=("nothing",)) == (
        (),
        replace(rest, count=0, bytes=0, by_type={}, by_process={}),
    )


def test_bytes_are_not_known_where_one_segment_is_not() -> None:
    things = (opened(1, made(A, 1), kind="shm", bytes_=5), opened(2, made(A, 1), kind="shm", fd=None))
    ((row,), _) = group(reading(*things))
    assert (row.count, row.bytes) == (2, None)


def test_a_call_site_that_was_not_kept() -> None:
    ((row,), _) = group(reading(opened(1, made((), 1))))
    assert (row.group, row.stack) == (NO_SITE, ())


def test_a_post_mortem_cannot_know_what_was_not_seen() -> None:
    assert group(reading(alive=False)) == ((), None)


def test_call_sites_of_a_resource() -> None:
    a, b = made(A, 1), made(B, 1)
    things = reading(
        *(opened(n, a, fd=n) for n in range(3)),
        *(opened(9, b, fd=n) for n in range(10, 14)),
        opened(20, b, kind="socket", fd=20),
        opened(30, a, kind="shm", fd=30, bytes_=1),
        opened(30, a, kind="shm", fd=None, pid=2),
        opened(31, b, kind="memfd", fd=None),
        Opened(1, "thread", None, (5,), None, b),
        Opened(1, "process", None, (6,), None, a),
        opened(40, None, fd=40),
    )

    def counts(resource: str) -> list[tuple[int, str]]:
        return [(site.count, site.stack[-1]) for site in call_sites(things, resource)]

    inner_a, inner_b = f"{STDLIB}:1 start", f"{OURS}:20 save"
    assert counts("fd") == [(5, inner_b), (4, inner_a)]
    assert counts("fd.pipe") == [(4, inner_b), (3, inner_a)]
    # Of what nobody holds the far end only one end is seen.
    assert counts("fd.pipe.nobody") == counts("fd.pipe.unknown") == [(3, inner_a)]
    assert counts("fd.pipe.tree") == counts("fd.pipe")
    assert counts("fd.socket") == [(1, inner_b)]
    assert counts("shm.held") == [(1, inner_a), (1, inner_b)]
    assert (counts("threads"), counts("children")) == ([(1, inner_b)], [(1, inner_a)])
    assert counts("memory.rss") == counts("fd.eventfd") == []


def test_orphans_are_shown_even_where_forks_have_copies() -> None:
    a = made(A, 1)
    things = reading(opened(1, a), opened(1, a, pid=2))
    assert [site.count for site in call_sites(things, "fd.pipe.nobody")] == [2]


BEFORE = reading(
    opened(1, made(A, 5)),
    opened(2, None, fd=4),
    opened(9, None, kind="eventfd", fd=5),
    Opened(1, "thread", None, (50,), None, None),
    at=6 * 10**9,
)
AFTER = reading(
    opened(1, made(A, 5)),
    opened(3, made(B, 7), fd=6),
    opened(2, None, fd=44),
    opened(9, None, kind="eventfd", fd=5),
    opened(9, None, kind="eventfd", fd=7),
    Opened(1, "thread", None, (50,), None, None),
    Opened(1, "thread", None, (51,), None, None),
    # A process that was forked since: inherited, inherited, new, new.
    opened(2, None, fd=4, pid=3),
    opened(9, None, kind="eventfd", fd=5, pid=3),
    opened(8, None, fd=4, pid=3),
    opened(9, None, kind="eventfd", fd=9, pid=3),
    at=8 * 10**9,
)


def test_only_what_is_new_since_a_mark() -> None:
    saved = from_json(to_json(save(BEFORE)))
    assert saved == save(BEFORE)
    rows, rest = group(AFTER, since=saved)
    assert [(row.group, row.count) for row in rows] == [(f"{OURS}:20 save", 1)]
    assert rest is not None
    assert (rest.by_process, rest.by_type) == ({"1": 2, "3": 2}, {"eventfd": 2, "thread": 1, "pipe": 1})
    assert opened_since(BEFORE, saved) == []


def test_another_process_of_the_same_number_is_new() -> None:
    # Below a root that is still the same one.
    saved = save(replace(BEFORE, started={1: 101, 2: 102}))
    later = replace(AFTER, started={1: 999, 2: 102}, opened=(Opened(1, "thread", None, (60,), None, None),))
    assert len(opened_since(later, saved)) == 1


def test_a_mark_of_other_processes_says_so() -> None:
    with pytest.raises(SavedTraceError, match="of another process: PID 1"):
        opened_since(replace(AFTER, started={1: 999}), save(BEFORE))


def test_a_mark_of_another_boot_says_so() -> None:
    with pytest.raises(SavedTraceError, match="restarted"):
        group(replace(AFTER, boot_id="other"), since=save(BEFORE))


GOOD = json.loads(to_json(save(BEFORE)))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", "null", '"x"', "{}", "[" * 100_000,
        json.dumps({**GOOD, "format": "amidiag-trace-mark/2"}),
        json.dumps({**GOOD, "boot_id": 7}),
        json.dumps({**GOOD, "taken_at": "7"}),
        json.dumps({**GOOD, "taken_at": True}),
        json.dumps({**GOOD, "not_seen": {}} | {"not_seen": 3}),
        json.dumps({**GOOD, "not_seen": [{"pid": 1}]}),
        json.dumps({**GOOD, "not_seen": [{"pid": 1, "start_ticks": 1, "keys": [[1, 2, 3]]}]}),
        json.dumps({**GOOD, "not_seen": [{"pid": 1, "start_ticks": 1, "keys": [[1, "pipe", ["x"]]]}]}),
        json.dumps({**GOOD, "not_seen": [{"pid": 1, "start_ticks": 1, "keys": [[1, "pipe"]]}]}),
        json.dumps({**GOOD, "taken_at": 1})[:-20],
    ],
    ids=lambda text: text[:30] + text[-20:],
)  # fmt: skip
def test_a_broken_mark_is_one_clear_error(text: str) -> None:
    with pytest.raises(SavedTraceError):
        from_json(text)


def test_an_empty_mark_leaves_nothing_out() -> None:
    assert len(opened_since(AFTER, Saved("b", 0, {}))) == len(AFTER.opened)
