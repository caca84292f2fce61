"""What is open, one by one, against `os.stat` of each FD and the scan that only counts."""

from __future__ import annotations

import os
import subprocess
from collections import Counter

import pytest
from procfs_targets import Spawn, Start

from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.fds import scan
from amidiag.procfs.open_files import OpenFile, list_fds, list_mapped, list_open
from amidiag.procfs.shm import read_holding

MIB = 1 << 20


def test_mixed_fds_are_named_as_stat_names_them(start: Start) -> None:
    # GIVEN a process with FDs of every type, some with names made to confuse
    target = start("mixed_fds", 3000)
    # WHEN they are listed
    files = list_open(target.pid)
    # THEN types are those of the scan
    assert Counter(file.type for file in files if file.fd is not None) == scan(target.pid).by_type
    # AND every FD has the device and inode of what it leads to
    for file in files:
        if file.fd is not None:
            info = os.stat(f"/proc/{target.pid}/fd/{file.fd}")
            assert (file.device, file.inode) == (info.st_dev, info.st_ino)
            assert file.bytes == (info.st_blocks * 512 if file.type in ("shm", "memfd") else None)
            assert file.address is None
    assert len({file.fd for file in files}) == len(files)


def test_only_some_of_them(start: Start) -> None:
    target = start("mixed_fds", 100)
    everything = {file.fd: file for file in list_fds(target.pid)}
    assert list_fds(target.pid, only=(0, 5, 9_999_999)) == [everything[0], everything[5]]


@pytest.mark.root
def test_what_is_only_mapped_is_listed_once(start: Start) -> None:
    # GIVEN a process with shared memory of every kind, some of it held by FD, some mapped
    target = start("shared_memory")
    mapped = [file for file in list_open(target.pid) if file.fd is None]
    # THEN what no FD holds is there, with the size that the kernel has allocated, once each
    assert sorted((file.type, file.bytes) for file in mapped) == [
        ("anonymous", 5 * MIB), ("shm", 3 * MIB), ("sysv", 4 * MIB),
    ]  # fmt: skip
    assert all(file.address for file in mapped)
    # AND all together are the process's holding
    holding = read_holding(scan(target.pid))
    found = {(f.device, f.inode): f.bytes for f in list_open(target.pid) if f.bytes is not None}
    assert found == {key: segment.allocated for key, segment in holding.segments.items()}
    # AND none of it is missing where nothing is held
    assert {f.type for f in list_mapped(target.pid, ())} == {"anonymous", "shm", "sysv", "memfd"}


@pytest.mark.root
def test_a_file_that_may_not_be_asked_is_named_without(spawn: Spawn) -> None:
    # GIVEN a file on a detached file system, where nothing says what it is
    script = "mount -t tmpfs none /mnt && exec 5>/mnt/file && umount -l /mnt && echo ready && exec cat"
    target = spawn(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout and target.stdout.readline() == b"ready\n"
    (file,) = [file for file in list_fds(target.pid) if file.fd == 5]
    # THEN its device stays unknown, and so nothing can be mistaken for it
    assert (file.type, file.device, file.bytes) == ("file", None, None)


@pytest.mark.root
def test_a_file_system_that_is_not_asked_is_known_by_the_kernels_own_words(spawn: Spawn) -> None:
    # GIVEN an FD on a file system of a type that is not known to answer by itself, as nfs or fuse
    script = "mount -t fusectl none /mnt && exec 5</mnt && echo ready && exec cat"
    target = spawn(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    if target.stdout.readline() != b"ready\n":
        pytest.skip("no fusectl in this kernel")
    (file,) = [file for file in list_fds(target.pid) if file.fd == 5]
    # THEN nobody asked it, and device and inode are those that it would have told
    info = os.stat(f"/proc/{target.pid}/fd/5")
    assert (file.type, file.device, file.inode) == ("file", info.st_dev, info.st_ino)


def test_a_process_that_is_not_there() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessGone):
        list_open(gone.pid)


def test_an_open_file_is_plain_data() -> None:
    file = OpenFile(1, "pipe", 15, 7, None, None)
    assert hash(file) == hash(OpenFile(1, "pipe", 15, 7, None, None))
