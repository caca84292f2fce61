"""What bounds a process, as it sees it itself: real namespaces by unshare(1), other users, other programs' words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from procfs_targets import Spawn, run_program

from amidiag.model import DevShm
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.identity import identify
from amidiag.procfs.shm import dev_shm
from amidiag.procfs.surroundings import surroundings

MIB = 1 << 20


def ready(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process.pid


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def by_df(pid: int) -> tuple[int, str]:
    """Size in bytes and type of /dev/shm as process `pid` sees it, from df(1)."""
    command = ["df", "--block-size=1", "--output=size,fstype", "/dev/shm"]
    if pid != os.getpid():
        command = ["nsenter", "-m", "-t", str(pid), *command]
    size, fs_type = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return int(size), fs_type


def test_this_process_agrees_with_the_machine() -> None:
    found = surroundings(os.getpid())
    assert found.nr_open == int(Path("/proc/sys/fs/nr_open").read_text())
    assert found.memory_total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.memory_available is not None
    assert 0 < found.memory_available < found.memory_total
    assert found.files_open is not None
    assert found.files_open > 0
    limit = int(Path("/proc/sys/fs/file-nr").read_text().split()[2])
    assert found.files_max == (None if limit == 2**63 - 1 else limit)
    assert found.cgroup is None or found.cgroup.used is not None
    assert (found.own_mount_namespace, found.own_pid_namespace, found.namespace_pid) == (False, False, None)
    assert found.dev_shm == dev_shm(os.getpid())
    assert found.dev_shm is not None
    size, fs_type = by_df(os.getpid())
    assert found.dev_shm.size == size
    assert found.dev_shm_mount is not None
    assert found.dev_shm_mount.startswith(f"{fs_type} at /dev/shm: rw")


@pytest.mark.root
def test_dev_shm_is_that_of_the_target(spawn: Spawn) -> None:
    # GIVEN a process in a mount namespace with a /dev/shm of 16 MiB, of which 1 is used
    setup = "mount -t tmpfs -o size=16m,nosuid shm /dev/shm && head -c 1048576 /dev/zero > /dev/shm/x"
    sleeper = f"{setup} && echo ready && exec sleep 1000"
    pid = ready(spawn(["unshare", "-m", "sh", "-c", sleeper], stdout=subprocess.PIPE))
    found = surroundings(pid)
    # THEN that is what is read, and not the reader's
    assert found.dev_shm is not None
    assert (found.dev_shm.size, found.dev_shm.used) == (16 * MIB, MIB)
    assert by_df(pid) == (16 * MIB, "tmpfs")
    assert found.dev_shm_mount is not None
    assert {"tmpfs at /dev/shm: rw", "nosuid", "size=16384k"} <= set(found.dev_shm_mount.split(", "))
    assert found.own_mount_namespace
    assert not found.own_pid_namespace
    assert surroundings(os.getpid()).dev_shm != found.dev_shm


@pytest.mark.root
def test_a_root_directory_without_dev_shm(spawn: Spawn, tmp_path: Path) -> None:
    # GIVEN a process in a directory (chroot) that is all it sees, with one program
    code = f"import os; os.chroot({str(tmp_path)!r}); os.write(1, b'ready\\n'); os.read(0, 1)"
    pid = ready(spawn([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    found = surroundings(pid)
    # THEN of what file system its directory is nobody knows without asking it: nothing is claimed
    assert (found.dev_shm, found.dev_shm_mount) == (None, None)
    assert not found.own_mount_namespace


@pytest.mark.root
def test_a_link_below_another_root_does_not_lead_into_ours(spawn: Spawn, tmp_path: Path) -> None:
    # GIVEN a process in a tmpfs of its own, where /dev/shm is a link to a directory that only the reader has
    setup = (
        f"mount -t tmpfs x {tmp_path} && mkdir {tmp_path}/dev && ln -s {tmp_path.parent} {tmp_path}/dev/shm"
    )
    code = f"import os; os.chroot({str(tmp_path)!r}); os.write(1, b'ready\\n'); os.read(0, 1)"
    command = ["unshare", "-m", "sh", "-c", f'{setup} && exec "$@"', "sh", sys.executable, "-c", code]
    pid = ready(spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    found = surroundings(pid)
    # THEN of the reader's own nothing is said to be the target's
    assert found.dev_shm == DevShm(size=None, used=None)
    assert found.dev_shm_mount == "tmpfs at /: rw, relatime"


@pytest.mark.root
def test_the_pid_inside_and_outside(spawn: Spawn) -> None:
    command = ["unshare", "-p", "-f", "-m", "--mount-proc", "sh", "-c", "echo ready; sleep 1000; true"]
    outer = ready(spawn(command, stdout=subprocess.PIPE))
    inside = child_of(outer)
    found = surroundings(inside)
    assert (found.namespace_pid, found.own_pid_namespace, found.own_mount_namespace) == (1, True, True)
    assert surroundings(outer).namespace_pid is None


@pytest.mark.root
def test_a_reader_inside_of_all_namespaces() -> None:
    # GIVEN a reader that shares nothing with this test THEN it calls nothing foreign that is its own
    seen = run_program(
        "surroundings_inside", "/dev/null", "unshare", "-p", "-f", "-m", "-C", "-i", "-n", "--mount-proc"
    )
    assert (seen["own_mount_namespace"], seen["own_pid_namespace"]) == (False, False)
    assert seen["namespace_pid"] is None


@pytest.mark.root
def test_a_stranger_gets_what_is_open_to_all_and_null_for_the_rest(spawn: Spawn) -> None:
    # GIVEN a process of root in a mount namespace of its own, and user 65533
    there = ready(spawn(["unshare", "-m", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE))
    here = spawn(["sleep", "1000"]).pid
    for pid in (there, here):
        mine = surroundings(pid)
        seen = run_program("surroundings_as", 65533, pid)["surroundings"]
        assert seen["own_mount_namespace"] == mine.own_mount_namespace == (pid == there)
        assert seen["dev_shm_mount"] == mine.dev_shm_mount
        assert (seen["cgroup"] or {}).get("path") == (mine.cgroup.path if mine.cgroup else None)
        assert seen["memory_total"] == mine.memory_total
        # `/proc/PID/root` is closed to strangers: no size is better than that of another /dev/shm.
        assert seen["dev_shm"] is None


def test_one_that_is_not_there() -> None:
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessGone, match=f"process {gone.pid} .true. has ended"):
        surroundings(gone.pid)
    gone.wait()
    with pytest.raises(ProcessGone, match=f"no process {gone.pid}"):
        surroundings(gone.pid)


def test_it_leaves_nothing_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    surroundings(os.getpid())
    assert identify(os.getpid())
    assert sorted(os.listdir("/proc/self/fd")) == before
