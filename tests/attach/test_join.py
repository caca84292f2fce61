"""What is open in real processes, joined with tables that say where it was made."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from attach_hands import Hands, StartHands
from attach_tables import TableWriter

from amidiag.attach.call_sites import NotTraced, Opened, TraceReading, read_trace
from amidiag.attach.second_look import closed_meanwhile
from amidiag.attach.traced_process import Member
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.fds import scan
from amidiag.procfs.identity import identify
from amidiag.procfs.open_files import list_open
from amidiag.procfs.processes import read_stat
from amidiag.target import trace_layout as layout
from amidiag.target.trace_layout import BY_ADDRESS, BY_FD, BY_INODE, BY_PROCESS, BY_THREAD

Take = Callable[[], Path]
TICK_NS = 10**9 // os.sysconf("SC_CLK_TCK")


def line(opened: Opened) -> int | None:
    """The line of `program.py` that it was made at."""
    return opened.made.stack[0].line if opened.made else None


def of_fd(reading: TraceReading, fd: int, pid: int | None = None) -> Opened:
    (found,) = [o for o in reading.opened if o.fd == fd and pid in (None, o.pid)]
    return found


def of_type(reading: TraceReading, kind: str, pid: int | None = None) -> list[Opened]:
    return [o for o in reading.opened if o.type == kind and pid in (None, o.pid)]


def note(
    table: TableWriter,
    kind: str,
    keyed: int,
    made: Any,
    number: int,
    *,
    at: int,
    region: int = 0,
    extra: int = 0,
) -> None:
    """That something was made at `program.py:NUMBER`."""
    site = table.site([("/srv/program.py", "main", number)], region)
    what = {key: made[key] for key in ("fd", "device", "inode")}
    table.slot(kind, keyed, at=at, site=site, extra=extra, region=region, **what)


def note_number(
    table: TableWriter, kind: str, keyed: int, number: int, of_line: int, *, at: int, region: int = 0
) -> None:
    site = table.site([("/srv/program.py", "main", of_line)], region)
    table.slot(kind, keyed, inode=number, extra=number, at=at, site=site, region=region)


def test_every_kind_is_led_to_its_line(hands: Hands, table: TableWriter, take: Take, tmp_path: Path) -> None:
    # GIVEN a program that holds one thing of each kind, all of them in its table
    ends = hands.pipe_made(table, 1)
    pair = hands.do("sockets")
    for number, end in enumerate(pair):
        note(table, "socket", BY_INODE, end, 2 + number, at=hands.at)
    memfd, shm, mapped = hands.do("memfd"), hands.do("shm"), hands.do("mapped")
    for number, segment, kind in ((4, memfd, "memfd"), (5, shm, "storage"), (6, mapped, "shm")):
        note(table, kind, BY_INODE, segment, number, at=hands.at)
    event = hands.do("eventfd")
    note(table, "eventfd", BY_FD, event, 7, at=hands.at, extra=event["id"] + 1)
    file = hands.do(f"file {tmp_path}/data")
    note(table, "file", BY_FD, file, 8, at=hands.at)
    note_number(table, "semaphore", BY_ADDRESS, hands.do("semaphore"), 9, at=hands.at)
    note_number(table, "thread", BY_THREAD, tid := hands.do("thread"), 10, at=hands.at)
    note_number(table, "process", BY_PROCESS, child := hands.do("child"), 11, at=hands.at)
    path = take()
    # WHEN it is read
    reading = read_trace(hands.pid)
    # THEN each is led to its line, both ends of a pipe to the one that made it
    assert [line(of_fd(reading, end["fd"])) for end in (*ends, *pair)] == [1, 1, 2, 3]
    assert [line(of_fd(reading, made["fd"])) for made in (memfd, shm, event, file)] == [4, 5, 7, 8]
    (segment,) = [o for o in of_type(reading, "shm") if o.fd is None]
    assert (line(segment), segment.key) == (6, (mapped["device"], mapped["inode"]))
    assert [line(o) for o in of_type(reading, "semaphore")] == [9]
    assert [(line(o), o.key) for o in of_type(reading, "thread")] == [(10, (tid,))]
    assert [(line(o), o.key) for o in of_type(reading, "process")] == [(11, (child,))]
    # AND sizes are those of the kernel
    assert [of_fd(reading, made["fd"]).bytes for made in (memfd, shm, event, file)] == [
        1 << 20,
        1 << 20,
        None,
        None,
    ]
    # AND what is open is what a scan finds, nothing twice and nothing left out
    found = [o.fd for o in reading.opened if o.fd is not None]
    assert sorted(found) == sorted(set(found)) and len(found) == scan(hands.pid).open
    assert (reading.alive, reading.file, reading.notes) == (True, str(path), ())
    assert [(p.pid, p.torn, p.no_slot, p.off_since) for p in reading.processes] == [(hands.pid, 0, 0, None)]


def test_what_nobody_saw_is_not_guessed(hands: Hands, table: TableWriter, take: Take, tmp_path: Path) -> None:
    # GIVEN things that are like recorded ones in all but one point
    seen = hands.do(f"file {tmp_path}/seen")
    elsewhere = hands.do(f"same {seen['fd']} 90")
    event, other = hands.do("eventfd"), hands.do("eventfd")
    pipes = [hands.do("pipe")[0] for _ in range(3)]
    note(table, "file", BY_FD, seen, 1, at=hands.at)
    note(table, "eventfd", BY_FD, {**other, "fd": event["fd"]}, 2, at=hands.at, extra=other["id"] + 1)
    note(table, "pipe", BY_INODE, {**pipes[0], "device": pipes[0]["device"] + 1}, 3, at=hands.at)
    note(table, "pipe", BY_INODE, {**pipes[1], "inode": pipes[1]["inode"] + 10_000}, 4, at=hands.at)
    note(table, "pipe", BY_FD, {**pipes[2], "fd": pipes[2]["fd"] + 100}, 5, at=hands.at)
    note_number(table, "thread", BY_THREAD, hands.do("thread"), 6, at=hands.at - 10**9)
    note_number(table, "process", BY_PROCESS, hands.do("child"), 7, at=hands.at - 10**9)
    note_number(table, "semaphore", BY_ADDRESS, hands.do("semaphore") + 4096, 8, at=hands.at)
    take()
    reading = read_trace(hands.pid)
    # THEN only the one that is the same in all points is attributed: threads and processes that began after
    # their record are others of the same number
    assert [o.fd for o in reading.opened if o.made] == [seen["fd"]]
    assert of_fd(reading, elsewhere["fd"]).made is None


def test_the_latest_under_a_number_decides(
    hands: Hands, table: TableWriter, take: Take, tmp_path: Path
) -> None:
    # GIVEN an FD that named two files and then the first again, opened where nobody looked
    first = hands.do(f"file {tmp_path}/first")
    note(table, "file", BY_FD, first, 1, at=hands.at)
    second = hands.do(f"file {tmp_path}/second {first['fd']}")
    note(table, "file", BY_FD, second, 2, at=hands.at)
    take()
    assert line(of_fd(read_trace(hands.pid), first["fd"])) == 2
    again = hands.do(f"file {tmp_path}/first {first['fd']}")
    assert again == first
    assert of_fd(read_trace(hands.pid), first["fd"]).made is None


def test_a_pipe_recorded_later_under_the_number_rules_the_file_out(
    hands: Hands, table: TableWriter, take: Take, tmp_path: Path
) -> None:
    file = hands.do(f"file {tmp_path}/data")
    note(table, "file", BY_FD, file, 1, at=hands.at)
    hands.do(f"close {file['fd']}")
    ends = hands.pipe_made(table, 2)
    assert ends[0]["fd"] == file["fd"]
    hands.do(f"file {tmp_path}/data {file['fd']}")
    take()
    assert of_fd(read_trace(hands.pid), file["fd"]).made is None
    assert line(of_fd(read_trace(hands.pid), ends[1]["fd"])) == 2


def test_two_records_of_one_inode_the_newer_counts(hands: Hands, table: TableWriter, take: Take) -> None:
    ends = hands.do("pipe")
    for number, at in ((2, hands.at), (1, hands.at - 5)):
        note(table, "pipe", BY_INODE, ends[0], number, at=at)
    take()
    assert line(of_fd(read_trace(hands.pid), ends[1]["fd"])) == 2


def test_a_forked_child_has_its_own_and_its_parents(
    hands: Hands, table: TableWriter, take: Take, tmp_path: Path
) -> None:
    # GIVEN a child that has inherited a pipe, a file and a semaphore and made a pipe
    ends = hands.pipe_made(table, 1)
    file = hands.do(f"file {tmp_path}/data")
    note(table, "file", BY_FD, file, 2, at=hands.at)
    note_number(table, "semaphore", BY_ADDRESS, hands.do("semaphore"), 3, at=hands.at)
    path = take()
    child = hands.do("fork", "pipe", f"take {path}")
    made, claimed = child["answers"][0], child["answers"][0]["at"]
    fork = table.site([("/srv/program.py", "start", 4)])
    table.claim(child["pid"], claimed, region=2, parent=(hands.pid, table.words(0)[layout.R_CLAIMED], fork))
    note(table, "pipe", BY_INODE, made["answer"][0], 5, at=claimed, region=2)
    # AND a parent that has opened other things since, under the same number too
    other = hands.do(f"file {tmp_path}/other {file['fd']}")
    note(table, "file", BY_FD, other, 6, at=hands.at)
    table.save(path)
    # WHEN the tree is read
    reading = read_trace(hands.pid, tree=True)
    # THEN the child has what it inherited from its parent's lines, and what it made from its own
    pid = child["pid"]
    assert [line(of_fd(reading, end["fd"], pid)) for end in ends] == [1, 1]
    assert [line(of_fd(reading, end["fd"], pid)) for end in made["answer"]] == [5, 5]
    assert line(of_fd(reading, file["fd"], pid)) == 2
    assert line(of_fd(reading, file["fd"], hands.pid)) == 6
    assert [line(o) for o in of_type(reading, "semaphore")] == [3, 3]
    # AND the child itself was made by the fork, and is held by the parent
    assert [(o.pid, o.key, line(o)) for o in of_type(reading, "process")] == [(hands.pid, (pid,), 4)]
    assert [p.pid for p in reading.processes] == [hands.pid, pid]
    assert reading.started == {p: identify(p).start_ticks for p in (hands.pid, pid)}
    # AND the child alone is read the same
    alone = read_trace(pid)
    assert {o.fd: line(o) for o in alone.opened} == {o.fd: line(o) for o in reading.opened if o.pid == pid}
    assert alone.file == str(path)
    assert [o for o in read_trace(hands.pid).opened if o.pid != hands.pid] == []


def test_what_the_parent_made_after_the_fork_was_not_inherited(
    hands: Hands, table: TableWriter, take: Take, tmp_path: Path
) -> None:
    # GIVEN a file that parent and child have each opened, under the same number, after the fork
    path = take()
    child = hands.do("fork", f"file {tmp_path}/data 99", f"take {path}")
    claimed = child["answers"][0]["at"]
    table.claim(child["pid"], claimed, region=1, parent=(hands.pid, table.words(0)[layout.R_CLAIMED], 0))
    note(table, "file", BY_FD, hands.do(f"file {tmp_path}/data 99"), 1, at=hands.at)
    table.save(path)
    reading = read_trace(hands.pid, tree=True)
    assert line(of_fd(reading, 99, hands.pid)) == 1
    assert of_fd(reading, 99, child["pid"]).made is None


def test_what_a_process_was_started_with_is_not_its_own_since_it_notes_it(
    hands: Hands, table: TableWriter, take: Take
) -> None:
    # GIVEN a child that has made a socket object around an inherited FD, and was sent the other end of a pipe
    socket = hands.do("sockets")[0]
    note(table, "socket", BY_INODE, socket, 1, at=hands.at)
    inherited, _ = hands.pipe_made(table, 2)
    sent, _ = hands.pipe_made(table, 3)
    path = take()
    child = hands.do("fork", f"take {path}")
    claimed = child["answers"][0]["at"]
    table.claim(child["pid"], claimed, region=1, parent=(hands.pid, table.words(0)[layout.R_CLAIMED], 0))
    note(table, "socket", BY_INODE, socket, 4, at=claimed, region=1)
    note(table, "received", BY_INODE, {**inherited, "fd": 99}, 5, at=claimed, region=1)
    note(table, "received", BY_INODE, sent, 6, at=claimed, region=1)
    table.save(path)
    # WHEN the tree is read
    reading = read_trace(hands.pid, tree=True)
    # THEN what it was started with was made by its parent; only what it was sent under this number was not
    fds = [made["fd"] for made in (socket, inherited, sent)]
    assert [line(of_fd(reading, fd, child["pid"])) for fd in fds] == [1, 2, 6]
    assert [line(of_fd(reading, fd, hands.pid)) for fd in fds] == [1, 2, 3]


def test_what_a_child_made_under_a_number_rules_its_inheritance_out(
    hands: Hands, table: TableWriter, take: Take, tmp_path: Path
) -> None:
    # GIVEN a child that has used the number of an inherited file for another, and opened the first again unseen
    file = hands.do(f"file {tmp_path}/data 99")
    note(table, "file", BY_FD, file, 1, at=hands.at)
    path = take()
    child = hands.do("fork", f"file {tmp_path}/other 99", f"file {tmp_path}/data 99", f"take {path}")
    other = child["answers"][0]
    table.claim(child["pid"], other["at"], region=1, parent=(hands.pid, table.words(0)[layout.R_CLAIMED], 0))
    note(table, "file", BY_FD, other["answer"], 2, at=other["at"], region=1)
    table.save(path)
    reading = read_trace(hands.pid, tree=True)
    assert line(of_fd(reading, 99, hands.pid)) == 1
    assert of_fd(reading, 99, child["pid"]).made is None


def test_the_inode_of_a_file_proves_nothing_under_another_number(
    hands: Hands, table: TableWriter, take: Take, tmp_path: Path
) -> None:
    # GIVEN a deleted file that was received, whose inode may have become another file's since
    file = hands.do(f"file {tmp_path}/data")
    hands.do(f"same {file['fd']} 99")
    note(table, "received", BY_INODE, file, 1, at=hands.at)
    take()
    reading = read_trace(hands.pid)
    assert line(of_fd(reading, file["fd"])) == 1
    assert of_fd(reading, 99).made is None


def test_a_segment_that_came_unseen_is_its_makers(hands: Hands, table: TableWriter, take: Take) -> None:
    # GIVEN a segment that a child has made, and that the parent holds although it noted nothing
    path = take()
    child = hands.do("fork", "memfd", f"take {path}")
    made = child["answers"][0]
    table.claim(child["pid"], made["at"], region=1, parent=(hands.pid, table.words(0)[layout.R_CLAIMED], 0))
    note(table, "memfd", BY_INODE, made["answer"], 3, at=made["at"], region=1)
    table.save(path)
    source = f"/proc/{child['pid']}/fd/{made['answer']['fd']}"
    came = hands.do(f"file {source}")
    assert came["inode"] == made["answer"]["inode"]
    assert line(of_fd(read_trace(hands.pid), came["fd"])) == 3


def test_a_region_of_an_earlier_process_of_the_number_is_not_believed(
    hands: Hands, table: TableWriter, take: Take
) -> None:
    # GIVEN a table whose region was claimed before this process was started
    hands.pipe_made(table, 1)
    table.word(layout.R_CLAIMED, (identify(hands.pid).start_ticks - 1) * TICK_NS, 0)
    take()
    with pytest.raises(NotTraced, match="not traced"):
        read_trace(hands.pid)
    # AND one of another boot
    table.word(layout.R_CLAIMED, hands.at, 0)
    table.data[layout.BOOT_ID_AT] ^= 1
    take()
    with pytest.raises(NotTraced):
        read_trace(hands.pid)


def test_descendants_without_a_table_are_named(hands: Hands, table: TableWriter, take: Take) -> None:
    hands.pipe_made(table, 1)
    child = hands.do("child")
    take()
    reading = read_trace(hands.pid, tree=True)
    assert any(
        f"not traced, so what they make is not seen: PID {child} (sleep)" in note for note in reading.notes
    )
    # What it inherited was seen being made, by its parent: here nothing, as its output is elsewhere.
    assert all(o.made is None for o in reading.opened if o.pid == child)
    assert [p.pid for p in reading.processes] == [hands.pid]
    assert read_trace(hands.pid).notes == ()


def test_an_untraced_parent_points_to_its_traced_children(
    start_hands: StartHands, hands: Hands, table: TableWriter, take: Take
) -> None:
    path = take()
    parent = start_hands()
    child = parent.do("fork", f"take {path}")
    table.claim(child["pid"], child["answers"][0]["at"], region=1)
    table.save(path)
    with pytest.raises(NotTraced, match=f"descendants are: PID {child['pid']}"):
        read_trace(parent.pid)
    assert [p.pid for p in read_trace(parent.pid, tree=True).processes] == [child["pid"]]


def test_what_was_made_before_an_exec_is_found_beside(
    hands: Hands, table: TableWriter, take: Take, tmp_path: Path
) -> None:
    # GIVEN a process that becomes another program, which maps no table, and keeps its FDs
    ends = hands.pipe_made(table, 1)
    file = hands.do(f"file {tmp_path}/data")
    note(table, "file", BY_FD, file, 2, at=hands.at)
    note_number(table, "semaphore", BY_ADDRESS, hands.do("semaphore"), 3, at=hands.at)
    take()
    hands.tell("become sleep 300")
    while read_stat(hands.pid).name != "sleep":
        pass
    reading = read_trace(hands.pid)
    assert [line(of_fd(reading, end["fd"])) for end in (*ends, file)] == [1, 1, 2]
    # Its memory is another one.
    assert of_type(reading, "semaphore") == []


def test_it_has_a_table_in_each_of_its_lives(
    hands: Hands, table: TableWriter, take: Take, runtime: Path, tmp_path: Path
) -> None:
    before = hands.do(f"file {tmp_path}/data")
    note(table, "file", BY_FD, before, 1, at=hands.at)
    # What lay at an address before the exec is gone.
    note_number(table, "semaphore", BY_ADDRESS, hands.do("semaphore"), 3, at=hands.at)
    path = take()
    later = TableWriter(hands.pid, identify(hands.pid).start_ticks)
    later.claim(hands.pid, hands.at + 1)
    ends = hands.pipe_made(later, 2)
    second = later.save(Path(str(path).replace(".trace", "-1.trace")))
    hands.do(f"take {second}")
    reading = read_trace(hands.pid)
    assert (line(of_fd(reading, before["fd"])), line(of_fd(reading, ends[0]["fd"]))) == (1, 2)
    assert [line(o) for o in of_type(reading, "semaphore")] == [None]
    assert reading.file == str(second)
    (books,) = reading.processes
    assert books.since == read_trace(hands.pid).processes[0].since


def test_tracing_that_was_switched_off_still_tells_what_came_before(
    hands: Hands, table: TableWriter, take: Take
) -> None:
    ends = hands.pipe_made(table, 1)
    table.word(layout.R_OFF_AT, hands.at, 0)
    table.word(layout.R_EMFILE, 3, 0)
    table.word(layout.R_EMFILE_AT, hands.at, 0)
    table.word(layout.F_UNTRACED_FORKS, 2)
    take()
    reading = read_trace(hands.pid)
    assert line(of_fd(reading, ends[0]["fd"])) == 1
    (books,) = reading.processes
    assert books.off_since is not None
    assert (books.emfile, books.emfile_at, books.untraced_forks) == (3, books.off_since, 2)


def test_a_damaged_table_is_named(hands: Hands, table: TableWriter, take: Take) -> None:
    table.word(layout.R_SLOTS, 10**6, 0)
    path = take()
    with pytest.raises(NotTraced, match=f"{path} is damaged"):
        read_trace(hands.pid)


def test_a_file_that_only_has_such_a_name_is_no_table(hands: Hands, runtime: Path) -> None:
    (runtime / "network.trace").write_bytes(b"something else" * 1000)
    hands.do(f"take {runtime}/network.trace")
    with pytest.raises(NotTraced, match="AMI_DIAG_TRACE=1") as error:
        read_trace(hands.pid)
    assert "network" not in str(error.value)


def test_what_is_closed_at_the_second_look_is_left_out(hands: Hands, table: TableWriter, take: Take) -> None:
    # GIVEN FDs and a segment that were listed, one of them closed, one another's by now
    stays, closed, replaced = hands.do("eventfd"), hands.do("eventfd"), hands.do("eventfd")
    hands.do("mapped")
    member = Member(read_stat(hands.pid), (hands.pid,), list_open(hands.pid))
    gone_segment = replace(member.files[-1], inode=12345, fd=None, type="shm")
    hands.do(f"close {closed['fd']}")
    hands.do(f"same 0 {replaced['fd']}")
    gone = closed_meanwhile(member, [*member.files, gone_segment])
    assert {(file.fd, file.inode) for file in gone} == {
        (closed["fd"], closed["inode"]), (replaced["fd"], replaced["inode"]), (None, 12345),
    }  # fmt: skip
    assert stays["fd"] not in {file.fd for file in gone}


def test_a_process_that_is_not_there() -> None:
    with pytest.raises(ProcessGone):
        read_trace(2**22 - 1)
