"""What an ended process left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from attach_tables import TableWriter

from amidiag.attach.call_sites import read_post_mortem
from amidiag.attach.grouping import group
from amidiag.attach.trace_files import BadTableError
from amidiag.target import trace_layout as layout
from amidiag.target.trace_layout import BY_ADDRESS, BY_FD, BY_INODE, BY_PROCESS, BY_THREAD

S = 10**9
PIPES, SOCKETS, SHM = 15, 9, 26


@pytest.fixture
def dead() -> TableWriter:
    """A worker (7) and its forked child (8), both at EMFILE once."""
    table = TableWriter(7, 100, regions=4, boot="0" * 36)
    table.word(layout.F_REALTIME, 1_000_000 * S)
    table.claim(7, 1 * S)
    fork = table.site([("/srv/program.py", "start", 3)])
    table.claim(8, 50 * S, region=1, parent=(7, 1 * S, fork))
    here = table.site([("/srv/program.py", "main", 4)])
    table.slot("pipe", BY_INODE, fd=3, device=PIPES, inode=1, at=2 * S, site=here)
    table.slot("storage", BY_INODE, fd=5, device=SHM, inode=2, at=3 * S, site=here)
    table.slot("shm", BY_INODE, fd=-1, device=SHM, inode=3, at=3 * S, site=here)
    table.slot("file", BY_FD, fd=6, device=1, inode=4, at=4 * S, site=here)
    table.slot("terminal", BY_FD, fd=7, device=6, inode=5, at=4 * S, site=here)
    table.slot("thread", BY_THREAD, inode=99, extra=99, at=5 * S, site=here)
    table.slot("process", BY_PROCESS, inode=77, extra=77, at=5 * S, site=here)
    table.slot("semaphore", BY_ADDRESS, inode=4096, extra=4096, at=5 * S, site=here)
    child = table.site([("/srv/program.py", "child", 5)], region=1)
    for device, fd in ((PIPES, 10), (SHM, 11), (1234, 12)):
        table.slot("received", BY_INODE, fd=fd, device=device, inode=fd, at=60 * S, site=child, region=1)
    for region, failed in ((0, 70 * S), (1, 80 * S)):
        table.word(layout.R_EMFILE, 2, region)
        table.word(layout.R_EMFILE_AT, failed, region)
    table.word(layout.R_SWEPT_AT, 69 * S, 0)
    return table


def test_everything_that_is_not_known_to_be_closed(dead: TableWriter, runtime: Path) -> None:
    path = dead.save(runtime / "7-100.trace")
    # WHEN the table of a dead process is read
    reading = read_post_mortem(str(path))
    # THEN each record is one thing of its process, received ones of the type that their device tells
    found = [(o.pid, o.type, o.fd) for o in reading.opened]
    assert found == [
        (7, "pipe", 3), (7, "shm", 5), (7, "shm", None), (7, "file", 6), (7, "device", 7), (7, "thread", None),
        (7, "process", None), (7, "semaphore", None), (8, "pipe", 10), (8, "shm", 11), (8, "received", 12),
        (7, "process", None),
    ]  # fmt: skip
    # AND the fork, which only the child's own region tells
    fork = reading.opened[-1]
    assert fork.key == (8,) and fork.made and str(fork.made.stack[0]) == "/srv/program.py:3 start"
    assert fork.made.at == 1_000_050
    # AND rows can be made of them, nothing is "not seen"
    rows, rest = group(reading)
    assert rest is None
    assert [(row.group, row.count, row.bytes) for row in rows] == [
        ("/srv/program.py:4 main", 8, None), ("/srv/program.py:5 child", 3, None), ("/srv/program.py:3 start", 1, 0),
    ]  # fmt: skip
    assert rows[0].first_at == "1970-01-12T13:46:42+00:00"
    # AND it is said what it is, as of when, and that FDs had run out
    assert (reading.alive, reading.file, reading.boot_id) == (False, str(path), "0" * 36)
    assert [(p.pid, p.emfile) for p in reading.processes] == [(7, 2), (8, 2)]
    told = " ".join(reading.notes)
    assert "not known to be closed" in told
    assert "PID 7: what was closed was last taken out 1970-01-12T13:47:49+00:00." in told
    assert "PID 8: nothing that it closed was taken out yet" in told
    # AND of a forked child its own part can be had alone
    child = read_post_mortem(str(path), of=8)
    assert {one.pid for one in child.opened} == {8} and [p.pid for p in child.processes] == [8]


def test_a_child_that_was_noted_when_it_was_started_counts_once(dead: TableWriter, runtime: Path) -> None:
    dead.slot("process", BY_PROCESS, inode=8, extra=8, at=50 * S)
    reading = read_post_mortem(str(dead.save(runtime / "7-100.trace")))
    assert [o.key for o in reading.opened if o.type == "process"] == [(77,), (8,)]


def test_a_post_mortem_is_believed_as_little_as_any_table(dead: TableWriter, runtime: Path) -> None:
    path = dead.save(runtime / "7-100.trace", mode=0o644)
    with pytest.raises(BadTableError, match="open to other users"):
        read_post_mortem(str(path))
    os.truncate(dead.save(path), 5000)
    with pytest.raises(BadTableError):
        read_post_mortem(str(path))
