"""Shared memory: every kind, once each, to the byte."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from procfs_targets import PROGRAMS, Spawn, Start, run_program

from amidiag.attach.status import StatusReader
from amidiag.procfs.identity import identify
from amidiag.procfs.observe import observe_tree
from amidiag.procfs.open_files import list_open
from amidiag.procfs.segments import KINDS
from amidiag.procfs.shm_tree import read_segments

MIB = 1 << 20
NOBODY = 65534


@pytest.mark.root
def test_every_kind_is_counted_once_over_the_tree(start: Start) -> None:
    # GIVEN three processes that share memory of every kind, some held only by FD, some only mapped
    target = start("shared_memory")
    # WHEN the tree is observed
    observation = observe_tree(target.pid)
    # THEN each process holds exactly what was allocated, by kind
    assert len(observation.processes) == 3
    for process in observation.processes:
        assert process.shm.by_kind == {**target.said, "tmpfs": 0, "device": 0}
        assert process.shm.held == sum(target.said.values())
    # AND the tree holds it once
    assert observation.tree.shm_unique == sum(target.said.values())
    assert observation.tree.shm_unique_is_lower_bound is False
    assert observation.notes == ()


@pytest.mark.root
def test_rss_does_not_see_what_is_held_by_fd_alone(start: Start) -> None:
    target = start("shared_memory")
    use = observe_tree(target.pid).processes[0].shm
    assert use.rss is not None
    assert use.held is not None
    # Only anonymous and SysV memory was touched; the rest was allocated, and is held.
    assert use.rss < use.held - (target.said["torch"] + target.said["posix"]) + MIB


@pytest.mark.root
def test_the_owner_who_is_not_root_gets_a_lower_bound(start: Start) -> None:
    # GIVEN a process of an ordinary user
    target = start("shared_memory", NOBODY)
    # WHEN that user looks
    seen = run_program("look_as", NOBODY, target.pid)["observation"]
    # THEN what can be followed is there, and it is said that there may be more
    followed = {kind: target.said[kind] for kind in ("torch", "memfd", "sysv")}
    assert seen["processes"][0]["shm"]["by_kind"] == dict.fromkeys(KINDS, 0) | followed
    assert seen["tree"]["shm_unique"] == sum(followed.values())
    assert seen["tree"]["shm_unique_is_lower_bound"] is True
    assert any("lower bound" in note for note in seen["notes"])


def test_dev_shm_of_this_mount_namespace() -> None:
    here = os.statvfs("/dev/shm")
    seen = observe_tree(os.getpid(), peers=False).tree.dev_shm
    assert seen is not None
    assert seen.size == here.f_blocks * here.f_frsize


@pytest.mark.root
def test_dev_shm_as_the_target_sees_it(spawn: Spawn) -> None:
    # GIVEN a process with a /dev/shm of its own, 32 MiB, 5 of them used
    script = (
        "mount -t tmpfs -o size=32m none /dev/shm && head -c 5M /dev/zero > /dev/shm/torch_1_2_0 "
        "&& exec 5</dev/shm/torch_1_2_0 && echo ready && exec cat"
    )
    target = spawn(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    observation = observe_tree(target.pid)
    assert observation.tree.dev_shm is not None
    assert (observation.tree.dev_shm.size, observation.tree.dev_shm.used) == (32 * MIB, 5 * MIB)
    assert observation.processes[0].shm.by_kind is not None
    assert observation.processes[0].shm.by_kind["torch"] == 5 * MIB


@contextlib.contextmanager
def on_its_own_tmpfs(spawn: Spawn, tmp_path: Path, *user: int) -> Iterator[tuple[int, dict[str, int], str]]:
    """A process with files on a tmpfs that only its mount namespace has: PID, bytes by name, directory."""
    place, disk = tmp_path / "tmpfs", tmp_path / "disk"
    place.mkdir()
    disk.mkdir()
    program = [sys.executable, str(PROGRAMS / "tmpfs_files.py"), str(place), str(disk), *map(str, user)]
    target = spawn(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'mount -t tmpfs -o mode=755 none {place} && exec "$@"',
            "sh",
            *program,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert target.stdout
    yield target.pid, json.loads(target.stdout.readline()), str(place)


@pytest.mark.root
def test_files_of_any_tmpfs_count_where_they_are_held_or_mapped_shared(spawn: Spawn, tmp_path: Path) -> None:
    with on_its_own_tmpfs(spawn, tmp_path) as (pid, said, place):
        # WHEN the tree is observed THEN what a disk backs, and what is mapped privately, is no shared memory
        observation = observe_tree(pid)
        use = observation.processes[0].shm
        assert use.by_kind is not None
        assert use.by_kind["tmpfs"] == use.held == observation.tree.shm_unique == sum(said.values())
        # AND each is listed with who has it
        name = observation.processes[0].name
        seen = {one.name: one for one in read_segments([(identify(pid), name)]).segments}
        assert {one: (seen[one].kind, seen[one].allocated) for one in seen} == {
            f"{place}/{one}": ("tmpfs", size) for one, size in said.items()
        }
        users = {one.rpartition("/")[2]: (seen[one].mapped_by, seen[one].held_by) for one in seen}
        assert users == {"held": ((), (pid,)), "gone": ((), (pid,)), "mapped": ((pid,), ())}
        assert [one.rpartition("/")[2] for one in seen if seen[one].deleted] == ["gone"]
        # AND those that list what is open say it of them: as FDs these are files, and what is only mapped is memory
        opened = {(file.type, file.fd is None, file.bytes) for file in list_open(pid) if file.bytes}
        assert opened == {
            ("regular", False, said["held"]), ("deleted", False, said["gone"]), ("shm", True, said["mapped"]),
        }  # fmt: skip


@pytest.mark.root
def test_their_owner_who_is_not_root_sees_them_too(spawn: Spawn) -> None:
    # Not pytest's own directory: into that nobody else may look.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        with on_its_own_tmpfs(spawn, Path(place), NOBODY) as (pid, said, _):
            seen = run_program("look_as", NOBODY, pid)["observation"]
    assert seen["processes"][0]["shm"]["by_kind"]["tmpfs"] == sum(said.values())
    assert seen["tree"]["shm_unique_is_lower_bound"] is False


@pytest.mark.root
def test_what_amidiag_itself_has_mapped_there_is_not_counted(spawn: Spawn, tmp_path: Path) -> None:
    # GIVEN a program whose status page and call-site table lie on a tmpfs, as XDG_RUNTIME_DIR does
    shell = f'mount -t tmpfs -o mode=700 none {tmp_path} && exec "$@"'
    code = (
        "import sys; from amidiag.target.status_page import StatusPage; page = StatusPage.create();"
        "print('ready', flush=True); sys.stdin.read()"
    )
    target = spawn(
        ["unshare", "--mount", "sh", "-c", shell, "sh", sys.executable, "-m", "amidiag", "run", "--",
         sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "AMIDIAG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    observation = observe_tree(target.pid, status_reader=StatusReader())
    maps = "".join(Path(f"/proc/{process.pid}/maps").read_text() for process in observation.processes)
    assert ".status" in maps and ".trace" in maps
    assert observation.tree.shm_unique == 0


def test_without_shm_nothing_is_claimed(start: Start) -> None:
    target = start("shared_memory")
    observation = observe_tree(target.pid, shm=False)
    assert observation.processes[0].shm.held is None
    assert observation.processes[0].shm.by_kind is None
    assert observation.processes[0].shm.rss is not None
    assert observation.tree.shm_unique is None
