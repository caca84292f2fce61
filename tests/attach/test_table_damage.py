"""Tables that are cut, scrambled, or written to while they are read: an answer or one clear error, no wrong one."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from attach_tables import SMALL, TableWriter, boottime

from amidiag.attach.trace_files import BadTableError, Table, read_table
from amidiag.target import trace_layout as layout
from amidiag.target.trace_layout import BY_FD, BY_INODE, BY_THREAD, Geometry

TESTS = Path(__file__).parent


def full_table() -> TableWriter:
    table = TableWriter(7, 8, regions=3)
    for region in range(3):
        table.claim(7 + region, boottime(), region=region)
        sites = [table.site([("a.py", "f", n), ("b.py", f"g{n}", n)], region) for n in range(6)]
        for n in range(40):
            keyed = (BY_INODE, BY_FD, BY_THREAD)[n % 3]
            table.slot("pipe", keyed, fd=n, device=1, inode=n, site=sites[n % 6], region=region)
    return table


def read_all(path: Path) -> Table:
    """Everything that a reader may ask of a table."""
    table = read_table(str(path))
    for region in table.regions:
        assert all(str(frame) for slot in region.slots for frame in region.made(slot).stack)
        assert region.by_inode is not None and region.by_fd is not None and region.threads is not None
        assert region.started is not None and region.at_address is not None
    return table


@pytest.mark.parametrize("value", [1, 63, 65, 4096, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1])
def test_no_word_of_a_header_leads_astray(runtime: Path, value: int) -> None:
    whole = bytes(full_table().data)
    path = runtime / "7-8.trace"
    first = layout.HEADER_SIZE
    for at in (*range(8, 128, 8), *range(first, first + 20 * 8, 8)):
        table = TableWriter(7, 8, regions=3)
        table.data[:] = whole
        struct.pack_into("@Q", table.data, at, value)
        table.save(path)
        try:
            read_all(path)
        except BadTableError as error:
            assert str(path) in str(error)


def test_scrambled_bytes_are_an_answer_or_an_error(runtime: Path) -> None:
    rng = random.Random(3)
    whole = bytes(full_table().data)
    path = runtime / "7-8.trace"
    errors = 0
    for _ in range(300):
        table = TableWriter(7, 8, regions=3)
        table.data[:] = whole
        for _ in range(rng.choice((1, 8, 200))):
            table.data[rng.randrange(16, len(whole))] = rng.randrange(256)
        table.save(path)
        try:
            read_all(path)
        except BadTableError:
            errors += 1
    assert errors > 30


def test_a_table_that_was_cut_off(runtime: Path) -> None:
    path = full_table().save(runtime / "7-8.trace")
    size = path.stat().st_size
    for length in (0, 7, 8, 255, 4095, 4096, 5000, size // 2, size - 1):
        os.truncate(path, length)
        with pytest.raises(BadTableError):
            read_table(str(path))
        full_table().save(path)


def test_a_table_that_claims_a_mountain_is_refused_unread(runtime: Path) -> None:
    # GIVEN a sparse file of 64 GiB in which everything fits
    table = TableWriter(7, 8)
    huge = Geometry(slots=1 << 29, sites=16, frames=16, strings=64)
    for i, number in enumerate(huge.words()):
        table.word(layout.F_FIRST_GEOMETRY + i, number)
    table.claim(7, boottime())
    table.word(layout.R_SLOTS, 1 << 29, 0)
    path = table.save(runtime / "7-8.trace")
    os.truncate(path, 64 << 30)
    with pytest.raises(BadTableError, match="beyond all reason"):
        read_table(str(path))


@pytest.mark.timeout(60)
def test_a_file_that_is_cut_while_it_is_read(runtime: Path) -> None:
    path = full_table().save(runtime / "7-8.trace")
    whole = path.read_bytes()
    stop = threading.Event()

    def cut() -> None:
        fd = os.open(path, os.O_RDWR)
        rng = random.Random(5)
        while not stop.is_set():
            os.ftruncate(fd, rng.randrange(len(whole)))
            os.pwrite(fd, whole, 0)
        os.close(fd)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        outcomes = {"read": 0, "bad": 0}
        while min(outcomes.values()) < 5 and sum(outcomes.values()) < 20_000:
            try:
                read_all(path)
                outcomes["read"] += 1
            except BadTableError:
                outcomes["bad"] += 1
    finally:
        stop.set()
        thread.join()
    assert outcomes["bad"] > 0


def test_a_slot_that_stays_torn_is_counted_and_left_out(runtime: Path) -> None:
    # GIVEN a table whose process was stopped, or killed, in the middle of a slot
    table = TableWriter(7, 8)
    table.claim(7, boottime())
    table.slot("pipe", BY_INODE, inode=1)
    table.slot("pipe", BY_INODE, inode=2, torn=True)
    (region,) = read_table(str(table.save(runtime / "7-8.trace"))).regions
    assert [slot[5] for slot in region.slots] == [1]
    assert region.torn == 1


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield
        finally:
            process.kill()


WRITER = """
import mmap, os, struct, sys
sys.path.insert(0, sys.argv[2])
from attach_tables import TableWriter
from amidiag.target.trace_layout import BY_INODE, SLOT
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 0)
offsets = [int(text) for text in sys.argv[3:]]
print("ready", flush=True)
number = 1
while True:
    for at in offsets:
        number += 1
        # Whatever is read must be of one number, and site 1 belongs to odd ones.
        site = 1 + number % 2
        SLOT.pack_into(memory, at, number, 1, BY_INODE, number % 1000, *[number] * 3, site, 0, number, number)
"""


@pytest.mark.timeout(60)
def test_slots_that_are_rewritten_without_pause_are_never_mixed(runtime: Path) -> None:
    # GIVEN a process that rewrites eight slots as fast as it can, and one that stands still
    table = TableWriter(7, 8)
    table.claim(7, boottime())
    for line in (1, 2):
        table.site([("program.py", "f", line)])
    table.slot("pipe", BY_INODE, device=3, inode=3, fd=3, at=3, site=2, extra=3)
    offsets = [
        table.slot("pipe", BY_INODE, device=n, inode=n, fd=n, at=n, site=1 + n % 2, extra=n) for n in range(8)
    ]
    path = table.save(runtime / "7-8.trace")
    command = [sys.executable, "-c", WRITER, str(path), str(TESTS), *map(str, offsets)]
    with running(command):
        # WHEN it is read again and again
        seen, torn = 0, 0
        for _ in range(400):
            (region,) = read_table(str(path)).regions
            torn += region.torn
            for slot in region.slots:
                _, kind, _, fd, device, inode, at, site, _, extra, _ = slot
                assert kind == 1
                # THEN every slot that is shown was written in one go
                assert (
                    {device, inode, at, extra} == {device} and fd == device % 1000 and site == 1 + device % 2
                )
                seen += 1
            # It is written by clearing it first: for an instant it is a free one.
            assert len(region.slots) + region.torn <= 9
    assert seen >= 400
    assert torn < 400 * 8


REUSER = """
import mmap, os, struct, sys, time
sys.path.insert(0, sys.argv[2])
from amidiag.target import trace_layout as layout
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 0)
old, new = open(sys.argv[3], "rb").read(), open(sys.argv[4], "rb").read()
at = layout.HEADER_SIZE
print("ready", flush=True)
claimed = 10
while True:
    for whole in (old, new):
        # As the maker of a file hands a region to its next child.
        struct.pack_into("@Q", memory, at, layout.STATE_FREE)
        memory[at + layout.REGION_HEADER_SIZE : len(whole)] = whole[at + layout.REGION_HEADER_SIZE :]
        memory[at + 8 : at + layout.REGION_HEADER_SIZE] = whole[at + 8 : at + layout.REGION_HEADER_SIZE]
        claimed += 1
        struct.pack_into("@Q", memory, at + 8 * layout.R_CLAIMED, claimed)
        struct.pack_into("@Q", memory, at, layout.STATE_ACTIVE)
        time.sleep(0.0003)
"""


@pytest.mark.timeout(60)
def test_a_region_that_changes_hands_is_read_of_one_owner_only(runtime: Path) -> None:
    # GIVEN a region that goes to and fro between two processes, each with its own sites
    def of(pid: int) -> TableWriter:
        table = TableWriter(1, 1)
        table.claim(pid, 1)
        for n in range(SMALL.sites if pid == 11 else 2):
            table.site([(f"of_{pid}.py", "f" * (pid * 3), n)])
        for n in range(60 if pid == 11 else 3):
            table.slot("pipe", BY_INODE, device=pid, inode=n, at=1, site=1 + n % 2)
        return table

    saved = [of(pid).save(runtime / f"{pid}.bytes") for pid in (11, 22)]
    path = of(11).save(runtime / "1-1.trace")
    command = [sys.executable, "-c", REUSER, str(path), str(TESTS), *map(str, saved)]
    with running(command):
        owners = set()
        for _ in range(600):
            for region in read_table(str(path)).regions:
                owners.add(region.pid)
                assert len(region.slots) == (60 if region.pid == 11 else 3)
                for slot in region.slots:
                    made = region.made(slot)
                    # THEN whatever is read is of one of them
                    assert (made.device, made.stack[0].file) == (region.pid, f"of_{region.pid}.py")
    assert owners == {11, 22}
