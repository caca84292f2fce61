"""FD counts and types, against `ls`, on real processes with real FDs."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections import Counter

import pytest
from procfs_targets import Spawn, Start

from amidiag.procfs import fds
from amidiag.procfs.errors import CannotObserve, ProcessGone
from amidiag.procfs.fds import count, scan
from amidiag.procfs.processes import all_pids

OF_MODE = {
    "-": "regular", "d": "directory", "c": "device", "b": "block_device", "p": "fifo", "s": "socket", "l": "symlink",
}  # fmt: skip


def ls(pid: int, *options: str) -> list[list[str]]:
    """The words of each line of `ls -l /proc/PID/fd`, special characters escaped."""
    listing = subprocess.run(
        ["ls", "-l", "--quoting-style=escape", *options, f"/proc/{pid}/fd"],
        capture_output=True, text=True, check=True, env={"LC_ALL": "C"},
    )  # fmt: skip
    return [line.split(" ") for line in listing.stdout.splitlines()[1:]]


def types_by_ls(pid: int) -> Counter[str]:
    """The same question answered by `ls -l` (the link) and `ls -lL` (the file behind it)."""
    files = {words[-1]: [word for word in words if word] for words in ls(pid, "-L")}
    links = {}
    for words in ls(pid):
        name, _, target = " ".join(words).partition(" -> ")
        links[name.rpartition(" ")[2]] = target
    return Counter(type_by_ls(target, files[fd]) for fd, target in links.items())


def type_by_ls(target: str, file: list[str]) -> str:
    mode, names = file[0], int(file[1])
    starts = {"pipe:": "pipe", "net:[": "namespace", "/memfd:": "memfd", "/dev/shm/": "shm"}
    for start, kind in starts.items():
        if target.startswith(start):
            return kind
    if target.startswith("anon_inode:"):
        return target.removeprefix("anon_inode:").strip("[]")
    return "deleted" if mode[0] == "-" and names == 0 else OF_MODE[mode[0]]


@pytest.mark.parametrize("kept", ["fd", "fd < 1500 or fd > 1980", "fd > 1700", "fd % 3 == 0", "fd % 999"])
def test_every_link_is_read_whatever_numbers_are_free(kept: str) -> None:
    # GIVEN a process with thousands of FDs, some closed since: a table with and without holes
    code = (
        "import os, sys\n"
        "opened = [os.open('/dev/null', os.O_RDONLY) for _ in range(2000)]\n"
        f"[os.close(fd) for fd in opened if not ({kept})]\n"
        "print(flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.readline()
        directory = fds.open_directory(process.pid)
        expected = [(fd, os.readlink(fd, dir_fd=directory)) for fd in os.listdir(directory)]
        # WHEN its links are read, once and again by the same descriptor THEN each is there once, in order
        assert fds.read_links(directory) == fds.read_links(directory) == expected
        os.close(directory)
        process.stdin.close()


def test_19000_mixed_fds_agree_with_ls_by_type_exactly(start: Start) -> None:
    # GIVEN a process with 19,000 FDs of every type, some with names made to confuse
    target = start("mixed_fds", 19_000)
    # WHEN its FDs are read
    result = scan(target.pid)
    # THEN types and numbers are those of ls, and those that the program says it opened
    assert result.by_type == types_by_ls(target.pid)
    opened = Counter(target.said)
    opened["pipe"] += 2  # Its standard input and output.
    opened.update([type_of_stderr(target.pid)])
    assert result.by_type == opened
    assert result.open == count(target.pid) == sum(opened.values()) >= 19_000
    assert {"pipe", "socket", "regular", "deleted", "directory", "fifo", "device", "eventfd"} <= set(
        result.by_type
    )
    assert {"eventpoll", "timerfd", "signalfd", "inotify", "pidfd", "memfd", "shm"} <= set(result.by_type)


def type_of_stderr(pid: int) -> str:
    file = os.stat(f"/proc/{pid}/fd/2")
    return type_by_ls(os.readlink(f"/proc/{pid}/fd/2"), [stat.filemode(file.st_mode), str(file.st_nlink)])


def test_count_is_the_same_by_stat_and_by_listing(start: Start) -> None:
    target = start("mixed_fds", 500)
    assert fds.size_is_count() in (True, False)
    assert count(target.pid) == count(target.pid, listing=True) == len(os.listdir(f"/proc/{target.pid}/fd"))


def test_count_of_a_process_that_is_not_there() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for listing in (True, False):
        with pytest.raises(ProcessGone, match=f"no process {gone.pid}"):
            count(gone.pid, listing=listing)


def test_unknown_anonymous_kinds_keep_their_own_name() -> None:
    assert fds.type_without_path("anon_inode:[landlock-ruleset]") == "landlock-ruleset"
    assert fds.type_without_path("anon_inode:inotify") == "inotify"
    assert fds.type_without_path("anon_inode:bpf-map") == "bpf"
    assert fds.type_without_path("newkind:[12]") == "newkind"
    assert fds.type_without_path("mnt:[4026531841]") == "namespace"


def test_open_mode_of_pipe_ends() -> None:
    # GIVEN both ends of a pipe, one of them also opened for both directions and as O_PATH
    reader, writer = os.pipe()
    both = os.open(f"/proc/self/fd/{reader}", os.O_RDWR)
    path = os.open(f"/proc/self/fd/{reader}", os.O_PATH)
    try:
        key = os.readlink(f"/proc/self/fd/{reader}")
        modes = {int(fd): mode for fd, found, mode in scan(os.getpid()).ends if found == key}
    finally:
        for fd in (reader, writer, both, path):
            os.close(fd)
    assert modes == {reader: fds.READ, writer: fds.WRITE, both: fds.READ | fds.WRITE, path: 0}


def test_hard_linked_file_is_not_lost_when_one_name_goes() -> None:
    with tempfile.TemporaryDirectory() as directory, open(f"{directory}/first", "w") as file:
        os.link(f"{directory}/first", f"{directory}/second")
        before = scan(os.getpid()).by_type
        os.unlink(f"{directory}/first")
        assert os.readlink(f"/proc/self/fd/{file.fileno()}").endswith(" (deleted)")
        assert scan(os.getpid()).by_type == before
        os.unlink(f"{directory}/second")
        after = scan(os.getpid()).by_type
    assert after.get("deleted", 0) == before.get("deleted", 0) + 1
    assert after.get("regular", 0) == before["regular"] - 1


@pytest.mark.root
def test_file_on_a_detached_mount_is_not_asked(spawn: Spawn) -> None:
    # GIVEN a file that stays open on a file system which was then detached, as `umount -l` does
    # to a dead server: nothing in the mount table says what it is
    script = "mount -t tmpfs none /mnt && exec 5>/mnt/file 6</mnt && umount -l /mnt && echo ready && exec cat"
    target = spawn(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    result = scan(target.pid)
    # THEN both are counted, as file, and said not to have been asked; what it inherited from here is known
    assert result.by_type["file"] == result.not_asked == 2
    assert "directory" not in result.by_type


def test_scanning_leaks_no_fd_of_its_own() -> None:
    with socket.socket():
        before = count(os.getpid())
        for pid in [os.getpid(), *all_pids()]:
            try:
                scan(pid)
            except ProcessGone:
                continue
            except CannotObserve as error:
                assert error.text
        assert count(os.getpid()) == before
