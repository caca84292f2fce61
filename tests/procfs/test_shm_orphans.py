"""Orphaned shared memory: what kills really leave behind, and what only looks like it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from procfs_targets import PROGRAMS, Spawn, run_program
from shm_places import Place, ended_pid

from amidiag.model import Orphan
from amidiag.procfs.creators import LivingProcesses
from amidiag.procfs.errors import CannotObserve, ProcessGone
from amidiag.procfs.identity import identify
from amidiag.procfs.processes import read_stat
from amidiag.procfs.shm_directory import open_shm
from amidiag.procfs.shm_orphans import OrphanReport, find_orphans

MIB = 1 << 20
pytestmark = pytest.mark.root  # Mounts, so that the tests see their own /dev/shm only.


def orphans_of(place: Place, older_than: float = 0) -> OrphanReport:
    with place.opened() as directory:
        return find_orphans(directory, sysv=False, older_than=older_than)


def by_name(report: OrphanReport) -> dict[str, Orphan]:
    return {orphan.name.removeprefix("/dev/shm/"): orphan for orphan in report.orphans}


def test_what_nobody_has_is_told_with_size_age_and_maker(spawn: Spawn) -> None:
    # GIVEN segments of a process that has ended: one whole, one of the create window, a semaphore; one of a living
    place, dead = Place(spawn), ended_pid()
    living = place.pid
    place.put(f"torch_{dead}_1_0", 3 * MIB)
    place.put(f"torch_{dead}_2_0", 64 * MIB, finished=False)
    place.put("sem.mp-abcdefgh", 32)
    place.put(f"torch_{living}_3_0")
    # WHEN they are looked for
    found = by_name(orphans_of(place))
    # THEN all are there, certain, as nobody at all has them open
    assert len(found) == 4
    assert all(orphan.certain and orphan.age is not None and orphan.owner == 0 for orphan in found.values())
    whole, begun = found[f"torch_{dead}_1_0"], found[f"torch_{dead}_2_0"]
    assert (whole.kind, whole.size, whole.allocated, whole.unfinished) == ("torch", 3 * MIB, 3 * MIB, False)
    assert (whole.creator, whole.creator_alive) == (dead, False)
    assert (begun.size, begun.allocated, begun.unfinished) == (64 * MIB, 0, True)
    semaphore = found["sem.mp-abcdefgh"]
    assert (semaphore.kind, semaphore.creator, semaphore.creator_alive) == ("semaphore", None, None)
    assert found[f"torch_{living}_3_0"].creator_alive is True


def test_a_process_that_only_inherited_the_pid_is_not_the_maker(spawn: Spawn) -> None:
    place = Place(spawn)
    path = place.put(f"torch_{place.pid}_1_0")
    assert by_name(orphans_of(place))[path.name].creator_alive is True
    # GIVEN a process of the right number that does not see this /dev/shm, as PID 1 of another container
    path = place.put(f"torch_{os.getpid()}_1_0")
    assert by_name(orphans_of(place))[path.name].creator_alive is False
    # GIVEN a file from before that process was born, which only a clock that is set back can make here
    future = spawn(["sleep", "60"])
    living = LivingProcesses()
    assert living.is_alive(future.pid, time.time()) is True
    assert living.is_alive(future.pid, time.time() - 3600) is False


def test_what_is_held_or_mapped_is_no_orphan(spawn: Spawn) -> None:
    # GIVEN a file that a process holds, and one that it has only mapped
    place, dead = Place(spawn), ended_pid()
    held, mapped = place.put(f"torch_{dead}_1_0"), place.put("psm_0123abcd")
    code = (
        "import ctypes, os, sys; c = ctypes.CDLL(None); c.mmap.restype = ctypes.c_void_p\n"
        "held = os.open(sys.argv[1], os.O_RDWR); fd = os.open(sys.argv[2], os.O_RDWR)\n"
        "c.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]; c.mmap(None, 4096, 1, 1, fd, 0)\n"
        "os.close(fd); print('ready', flush=True); input()"
    )
    user = spawn(
        place.inside(sys.executable, "-c", code, f"/dev/shm/{held.name}", f"/dev/shm/{mapped.name}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert user.stdout and user.stdout.readline() == b"ready\n"
    assert by_name(orphans_of(place)) == {}
    # WHEN it has ended
    user.kill()
    user.wait()
    assert set(by_name(orphans_of(place))) == {held.name, mapped.name}


def test_what_is_young_is_not_listed_and_that_is_said(spawn: Spawn) -> None:
    place = Place(spawn)
    place.put("psm_0123abcd")
    report = orphans_of(place, older_than=60)
    assert (report.orphans, report.young) == ((), 1)
    assert any("as young as 60 s" in note for note in report.notes)


def test_only_regular_files_are_looked_at(spawn: Spawn) -> None:
    # GIVEN a link out of it, a FIFO, and a directory
    place = Place(spawn)
    (place.shm / f"torch_{ended_pid()}_1_0").symlink_to("/etc/passwd")
    os.mkfifo(place.shm / "psm_0123abcd")
    (place.shm / "psm_01234567").mkdir()
    assert orphans_of(place).found == ()


def test_a_dev_shm_that_is_a_link_or_no_tmpfs_is_refused(spawn: Spawn) -> None:
    # GIVEN a root directory whose /dev/shm leads, taken by its word, to that of this machine
    script = (
        "mount -t tmpfs none /mnt && mkdir -p /mnt/dev /mnt/other && ln -s /dev/shm /mnt/dev/shm && echo ready "
        "&& exec cat"
    )
    target = spawn(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout and target.stdout.readline() == b"ready\n"
    code = "import os, sys; os.chroot('/mnt'); print('ready', flush=True); sys.stdin.read()"
    words = ["nsenter", "--target", str(target.pid), "--mount", "--", sys.executable, "-c", code]
    inner = spawn(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert inner.stdout and inner.stdout.readline() == b"ready\n"
    with pytest.raises(CannotObserve), open_shm(identify(inner.pid)):
        pass


def test_a_process_that_has_ended_has_no_dev_shm(spawn: Spawn) -> None:
    place = Place(spawn)
    os.killpg(place.pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{place.pid}/root/dev"):
        time.sleep(0.01)
    with pytest.raises(ProcessGone), place.opened():
        pass


def test_a_holder_that_cannot_be_seen_is_told_by_the_kernel(spawn: Spawn, tmp_path: Path) -> None:
    # GIVEN a file that a process outside of a PID namespace holds, and one that nobody holds
    place, dead = Place(spawn), ended_pid()
    held = place.put(f"torch_{dead}_1_0")
    place.put(f"torch_{dead}_2_0", MIB, finished=False)
    fd = os.open(held, os.O_RDONLY)
    # WHEN somebody inside looks
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "amidiag", "shm", "--json"]
    done = subprocess.run(
        place.inside(*command, "--older-than", "0s"), capture_output=True, text=True, check=False
    )
    os.close(fd)
    assert done.returncode == 0, done.stderr
    seen = as_json(done)
    # THEN the held one is no orphan, though no process there has it; the other is one for certain
    (orphan,) = seen["data"]["orphans"]
    assert (orphan["name"], orphan["certain"]) == (f"/dev/shm/torch_{dead}_2_0", True)
    # AND whether its maker lives outside is not known there
    assert orphan["creator_alive"] is None
    assert any("1 that somebody has open who cannot be seen" in note for note in seen["notes"])


def test_another_users_files_are_not_certain() -> None:
    # GIVEN a user who may look neither into others' processes nor at others' files
    path = Path(f"/dev/shm/amidiag-orphan-test-{os.getpid()}")
    path.write_bytes(b"x")
    try:
        seen = {orphan["name"]: orphan for orphan in run_program("orphans_as", 65534)["orphans"]}
        assert seen[str(path)]["certain"] is False
    finally:
        path.unlink()


def as_json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def wait_for_end(pid: int) -> None:
    """A kill takes effect a moment later; a zombie has ended."""
    while True:
        try:
            if read_stat(pid).ended:
                return
        except ProcessGone:
            return
        time.sleep(0.01)


def torch_program(place: Place, spawn: Spawn, *words: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAMS / f"{words[0]}.py"), *map(str, words[1:])]
    return spawn(place.inside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_kill_in_the_create_window_leaves_an_unfinished_file(spawn: Spawn) -> None:
    # GIVEN torch that puts tensor after tensor into shared memory
    place = Place(spawn)
    process = torch_program(place, spawn, "sharing", 256)
    for _ in range(50):
        # WHEN it is killed as soon as a name is there
        while not any(place.shm.iterdir()):
            assert process.poll() is None
        process.kill()
        process.wait()
        left = by_name(orphans_of(place))
        if left:
            break
        process = torch_program(place, spawn, "sharing", 256)
    # THEN the file that stays is found: of full size, its maker dead, most often with nothing in it
    ((name, orphan),) = left.items()
    assert orphan.size == 256 * MIB
    assert (orphan.kind, orphan.creator, orphan.creator_alive) == ("torch", int(name.split("_")[1]), False)
    assert orphan.unfinished is (orphan.allocated == 0)


def test_batches_queued_by_name_are_the_trees_while_it_lives_and_orphans_after(spawn: Spawn) -> None:
    # GIVEN the file_system strategy, where a queued batch is a name and nothing else
    place = Place(spawn)
    process = torch_program(place, spawn, "batches", "file_system", 4)
    assert process.stdout and process.stdin
    loader = json.loads(process.stdout.readline())["loader"]
    # WHEN all are queued that may be, one of five is taken and mapped, and the loader has let go of the others
    while len(waiting := by_name(orphans_of(place))) < 4:
        assert process.poll() is None
        time.sleep(0.05)
    # THEN those that nobody maps or holds are said to have a living maker
    assert len(list(place.shm.glob("torch_*"))) == 5
    assert all(orphan.creator_alive for orphan in waiting.values())
    # WHEN loader, torch_shm_manager and program are killed
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.wait()
    wait_for_end(loader)
    # THEN all five stay, and nobody is left who made them
    left = by_name(orphans_of(place))
    assert len(left) == 5
    assert {(orphan.creator_alive, orphan.unfinished) for orphan in left.values()} == {(False, False)}


def test_nothing_of_a_living_process_is_ever_taken_for_an_orphan(spawn: Spawn) -> None:
    # GIVEN torch that makes, maps and unlinks segments as fast as it can
    place = Place(spawn)
    makers = [torch_program(place, spawn, "sharing", 128) for _ in range(2)]
    # THEN no look finds an orphan among them, however young it may be
    seen = 0
    while seen < 3:
        seen += len(list(place.shm.iterdir()))
        assert orphans_of(place).found == ()
        assert all(maker.poll() is None for maker in makers)


def test_a_maker_is_known_by_the_pid_that_it_has_inside_of_its_container(spawn: Spawn) -> None:
    # GIVEN a process of another PID namespace that has made a file with the PID that it sees of itself
    script = (
        "mount -t tmpfs none /dev/shm && exec unshare --pid --fork sh -c '"
        "head -c 4096 /dev/zero > /dev/shm/torch_$$_1_0; echo ready; read line; exit 0'; "
    )
    outer = spawn(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert outer.stdout and outer.stdin and outer.stdout.readline() == b"ready\n"
    # It is PID 1 there, as is another process here.
    with open_shm(identify(outer.pid)) as directory:
        (found,) = find_orphans(directory, sysv=False, older_than=0).orphans
        assert (found.name, found.creator, found.creator_alive) == ("/dev/shm/torch_1_1_0", 1, True)


def test_the_number_of_a_maker_is_looked_for_in_every_namespace(spawn: Spawn) -> None:
    # GIVEN a process whose PID inside of its namespace is far above any that lives here
    code = (
        "import os, sys; top = int(open('/proc/sys/kernel/pid_max').read())\n"
        "open('/proc/sys/kernel/ns_last_pid', 'w').write(str(top - 20))\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "sys.stdin.read()"
    )
    outer = spawn(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert outer.stdout and outer.stdin
    inner = int(outer.stdout.readline())
    assert LivingProcesses().is_alive(inner, time.time()) is True
    outer.stdin.close()
    outer.stdin = None
    outer.wait()
    assert LivingProcesses().is_alive(inner, time.time()) is False
