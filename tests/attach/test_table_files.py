"""Which table files are believed, what is read from them, and how old ones are listed and removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from attach_tables import TableWriter, boottime

from amidiag.attach.trace_files import BadTableError, clean, find_dead, list_tables, read_table
from amidiag.procfs.identity import identify
from amidiag.target import trace_layout as layout
from amidiag.target.trace_layout import BY_INODE, Geometry

NOBODY = 65534
STACK = [("/usr/lib/python3.11/socket.py", "socket.__init__", 7), ("/srv/program.py", "main", 40)]


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def table() -> TableWriter:
    me = identify(os.getpid())
    table = TableWriter(me.pid, me.start_ticks, regions=3)
    table.claim(me.pid, boottime())
    return table


def test_what_was_written_is_read(table: TableWriter, runtime: Path) -> None:
    # GIVEN a table with a pipe, and with counters of each kind
    site = table.site(STACK)
    at = boottime()
    table.slot("pipe", BY_INODE, fd=5, device=15, inode=4711, at=at, site=site, thread=99, extra=3)
    for word in (layout.R_NO_SLOT, layout.R_NO_SITE, layout.R_ERRORS, layout.R_EMFILE):
        table.word(word, word + 100, 0)
    table.word(layout.F_UNTRACED_FORKS, 6)
    table.claim(4712, at + 1, region=1, parent=(os.getpid(), at, site))
    # WHEN it is read
    read = read_table(str(table.save(runtime / "1-2.trace")))
    # THEN all of it is there, with times in the clock that people use
    assert (read.pid, read.program, read.untraced_forks) == (os.getpid(), "program.py", 6)
    first, child = read.regions
    made = first.made(first.slots[0])
    assert (made.kind, made.keyed, made.fd, made.device, made.inode, made.thread, made.extra) == (
        "pipe", BY_INODE, 5, 15, 4711, 99, 3,
    )  # fmt: skip
    assert [str(frame) for frame in made.stack] == [
        "/usr/lib/python3.11/socket.py:7 socket.__init__",
        "/srv/program.py:40 main",
    ]
    assert (made.pid, made.claimed, made.boottime_ns) == (first.pid, first.claimed, at)
    assert abs(made.at - time.time()) < 60
    assert (first.no_slot, first.no_site, first.errors, first.emfile) == (
        layout.R_NO_SLOT + 100, layout.R_NO_SITE + 100, layout.R_ERRORS + 100, layout.R_EMFILE + 100,
    )  # fmt: skip
    assert (child.pid, child.parent, child.parent_site, first.parent) == (4712, (os.getpid(), at), site, None)


def test_a_full_table_of_sites_leaves_no_stack(table: TableWriter, runtime: Path) -> None:
    table.slot("pipe", BY_INODE, inode=1, site=0)
    (region,) = read_table(str(table.save(runtime / "1-2.trace"))).regions
    assert region.made(region.slots[0]).stack == ()


def test_a_maker_without_a_region_of_its_own(runtime: Path) -> None:
    # GIVEN the table of a forked child that forks: nothing but regions for its children
    table = TableWriter(7, 8, regions=2, first=Geometry(0, 0, 0, 0))
    table.claim(9, boottime(), region=1)
    table.slot("pipe", BY_INODE, inode=1, region=1)
    (region,) = read_table(str(table.save(runtime / "7-8.trace"))).regions
    assert (region.number, region.pid, len(region.slots)) == (1, 9, 1)


def test_what_a_terminal_would_obey_is_escaped(runtime: Path) -> None:
    table = TableWriter(7, 8, program=b"a\x1b[2Jb\n\xe2\x80\xae\xff")
    table.claim(7, boottime())
    table.slot("pipe", BY_INODE, inode=1, site=table.site([("/x/\x1b]0;title\x07.py", "f\r\n", 1)]))
    read = read_table(str(table.save(runtime / "7-8.trace")))
    assert read.program == r"a\x1b[2Jb\n\u202e\xff"
    (frame,) = read.regions[0].made(read.regions[0].slots[0]).stack
    assert (frame.file, frame.function) == (r"/x/\x1b]0;title\x07.py", r"f\r\n")


def test_times_of_an_earlier_boot_are_of_its_clock(runtime: Path) -> None:
    table = TableWriter(7, 8, boot="0" * 36)
    table.word(layout.F_REALTIME, 1_000_000_000 * 10**9)
    table.claim(7, 5)
    table.slot("pipe", BY_INODE, inode=1, at=42 * 10**9)
    (region,) = read_table(str(table.save(runtime / "7-8.trace"))).regions
    assert region.made(region.slots[0]).at == 1_000_000_042


@pytest.mark.timeout(30)
def test_only_a_private_regular_file_is_believed(table: TableWriter, runtime: Path) -> None:
    path = table.save(runtime / "1-2.trace")
    (runtime / "link.trace").symlink_to(path)
    os.mkfifo(runtime / "fifo.trace", 0o600)
    (runtime / "directory.trace").mkdir(0o700)
    (runtime / "other.trace").write_bytes(b"x" * 5000)
    (runtime / "other.trace").chmod(0o600)
    for name, why in (
        ("link", "link"),
        ("fifo", "not a regular file"),
        ("directory", "not a regular file"),
        ("other", "no call-site table"),
    ):
        with pytest.raises(BadTableError, match=why):
            read_table(str(runtime / f"{name}.trace"))
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(BadTableError, match="open to other users"):
            read_table(str(path))
    with pytest.raises(FileNotFoundError):
        read_table(str(runtime / "none.trace"))


def test_a_directory_that_others_write_to_is_not_believed(table: TableWriter, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    path = table.save(shared / "1-2.trace")
    shared.chmod(0o777)
    with pytest.raises(BadTableError, match="others than its owner may put files"):
        read_table(str(path))
    shared.chmod(0o755)
    assert read_table(str(path)).regions


@pytest.mark.root
def test_a_file_of_another_user_is_not_believed(table: TableWriter, runtime: Path) -> None:
    path = table.save(runtime / "1-2.trace")
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(BadTableError, match="another user"):
        read_table(str(path))
    with pytest.raises(BadTableError, match="another user"):
        read_table(str(path), owner=NOBODY - 1)
    assert read_table(str(path), owner=NOBODY).regions
    assert list_tables() == []


def test_another_version_says_so(table: TableWriter, runtime: Path) -> None:
    table.word(layout.F_VERSION, layout.VERSION + 1)
    with pytest.raises(BadTableError, match=f"version {layout.VERSION + 1}"):
        read_table(str(table.save(runtime / "1-2.trace")))


def test_tables_are_listed_found_and_cleaned(table: TableWriter, runtime: Path) -> None:
    # GIVEN the table of a live process, that of a dead one whose child still runs, two of earlier
    # boots, one older still, and a file that is no table
    me = identify(os.getpid())
    table.save(runtime / "living.trace")
    gone, child = (
        dead_pid(),
        subprocess.Popen([sys.executable, "-c", "open(0).read()"], stdin=subprocess.PIPE),
    )
    try:
        used = TableWriter(gone, 5, regions=2)
        used.claim(gone, boottime())
        used.claim(child.pid, boottime(), region=1)
        used.save(runtime / "used.trace")
        for name, age in (("old", 9), ("newer", 3)):
            # This boot may be younger than that.
            dead = TableWriter(gone, 6, boot="1" * 36)
            dead.word(layout.F_REALTIME, time.time_ns() - age * 86400 * 10**9)
            dead.claim(gone, 7)
            dead.slot("pipe", BY_INODE, inode=1, at=10**10)
            path = dead.save(runtime / f"{name}.trace")
            os.utime(path, (0, 0))
        other_boot = TableWriter(me.pid, me.start_ticks, boot="0" * 36)
        other_boot.claim(me.pid, 1)
        other_boot.word(layout.F_REALTIME, 10**18)
        os.utime(other_boot.save(runtime / "boot.trace"), (0, 0))
        (runtime / "junk.trace").write_bytes(b"junk")
        os.utime(runtime / "junk.trace", (0, 0))
        # THEN they are listed, the live one first, with the times of what was written in them
        listed = list_tables()
        assert [(Path(file.path).stem, file.alive) for file in listed] == [
            ("living", True), ("used", False), ("newer", False), ("old", False), ("boot", False),
        ]  # fmt: skip
        assert listed[0].pid == me.pid and listed[0].program == "program.py"
        assert listed[0].size == os.stat(runtime / "living.trace").st_size
        assert listed[2].made_at < listed[2].written_at < listed[1].written_at
        # AND found by the process that is gone, its newest first, or by its child once that is gone too
        assert [Path(path).stem for path in find_dead(gone)] == ["used", "newer", "old"]
        assert find_dead(me.pid) == [str(runtime / "boot.trace")]
        assert find_dead(child.pid) == []
        # AND cleaned by age, but never those in use
        assert [Path(path).stem for path in clean(5 * 86400)] == ["boot", "junk", "old"]
        assert [Path(path).stem for path in clean(0)] == ["newer"]
    finally:
        child.communicate()
    assert [Path(path).stem for path in find_dead(child.pid)] == ["used"]
    assert [Path(path).stem for path in clean(0)] == ["used"]
    assert [Path(file.path).stem for file in list_tables()] == ["living"]


def test_no_directory_has_no_tables(runtime: Path) -> None:
    runtime.rmdir()
    assert (list_tables(), find_dead(1), clean(0)) == ([], [], [])


def test_an_open_directory_is_refused(runtime: Path) -> None:
    runtime.chmod(0o755)
    with pytest.raises(PermissionError, match="alone"):
        list_tables()
