"""`--reap`: what it removes, and everything that it must leave alone."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from procfs_targets import PROGRAMS, Spawn
from shm_places import Place, ended_pid

from amidiag.procfs.shm_directory import list_files
from amidiag.procfs.shm_orphans import FoundOrphan, find_orphans
from amidiag.procfs.shm_reap import remove, remove_file, sort_out
from amidiag.procfs.shm_users import Users
from amidiag.procfs.sysv import read_sysv

pytestmark = pytest.mark.root  # Mounts, so that the tests see their own /dev/shm only.


def found_in(directory: int) -> tuple[FoundOrphan, ...]:
    return find_orphans(directory, sysv=False, older_than=0).found


def reap(place: Place, *, any_name: bool = False) -> dict[str, str | None]:
    """What was done with each, by its name without the directory."""
    with place.opened() as directory:
        chosen = sort_out(directory, found_in(directory), any_name=any_name)
        done = {**chosen.kept, **dict(remove(directory, chosen.removable, any_name=any_name))}
    return {name.removeprefix("/dev/shm/"): reason for name, reason in done.items()}


def names_in(place: Place) -> set[str]:
    return {path.name for path in place.shm.iterdir()}


def test_orphans_of_the_dead_are_removed(spawn: Spawn) -> None:
    place, dead = Place(spawn), ended_pid()
    place.put(f"torch_{dead}_1_0")
    place.put(f"torch_{dead}_2_0", 1 << 20, finished=False)
    place.put("psm_0123abcd")
    place.put("sem.mp-abcdefgh", 32)
    done = reap(place)
    assert set(done.values()) == {None}
    assert len(done) == 4
    assert names_in(place) == set()


def test_what_a_living_process_made_is_kept(spawn: Spawn) -> None:
    place = Place(spawn)
    name = f"torch_{place.pid}_1_0"
    place.put(name)
    done = reap(place)
    assert f"its maker, PID {place.pid}, runs" in (done[name] or "")
    assert names_in(place) == {name}


def test_what_a_living_torch_shm_manager_may_hand_out_is_kept(spawn: Spawn) -> None:
    # GIVEN a process of that name, which sees this /dev/shm, and a file of a loader that has ended
    place, dead = Place(spawn), ended_pid()
    code = "import sys; open('/proc/self/comm', 'w').write('torch_shm_manager'); print('ready', flush=True); input()"
    manager = spawn(place.inside(sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert manager.stdout and manager.stdout.readline() == b"ready\n"
    name, begun = f"torch_{dead}_1_0", f"torch_{dead}_2_0"
    place.put(name)
    place.put(begun, finished=False)
    # THEN it is kept, but not what was never finished, whose name nobody was given
    done = reap(place)
    assert f"torch_shm_manager, PID {manager.pid}, runs" in (done[name] or "")
    assert names_in(place) == {name}
    # AND a manager that sees another /dev/shm protects nothing here
    manager.kill()
    manager.wait()
    elsewhere = Place(spawn)
    other = spawn(elsewhere.inside(sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"ready\n"
    assert reap(place) == {name: None}


def test_a_file_of_unknown_make_is_kept_unless_asked_for(spawn: Spawn) -> None:
    place = Place(spawn)
    place.put("my-dataset.bin")
    place.put("sem.mine", 32)
    assert all("--any-name" in (reason or "") for reason in reap(place).values())
    assert names_in(place) == {"my-dataset.bin", "sem.mine"}
    assert set(reap(place, any_name=True).values()) == {None}
    assert names_in(place) == set()


@pytest.mark.parametrize("change", ["opened", "replaced", "written", "removed", "linked"])
def test_what_happens_between_listing_and_removing_is_seen(spawn: Spawn, change: str) -> None:
    # GIVEN an orphan that was listed and found removable
    place = Place(spawn)
    path = place.put(f"torch_{ended_pid()}_1_0")
    with place.opened() as directory:
        chosen = sort_out(directory, found_in(directory), any_name=False).removable
        assert len(chosen) == 1
        # WHEN something happens to it before it is removed
        fd = -1
        if change == "opened":
            fd = os.open(path, os.O_RDONLY)
        elif change == "written":
            time.sleep(0.02)  # Times of files move with the clock tick.
            path.write_bytes(b"x")
        else:
            path.unlink()
        if change == "replaced":
            place.put(path.name)
        if change == "linked":
            place.put("precious")
            path.symlink_to("precious")
        before = names_in(place)
        # THEN nothing is removed, and it is said why
        ((_, reason),) = remove(directory, chosen, any_name=False)
        assert names_in(place) == before
        expected = "opened it" if change == "opened" else "changed, replaced or removed"
        assert expected in (reason or "")
        if fd >= 0:
            os.close(fd)


def test_an_fd_in_flight_is_not_overlooked(spawn: Spawn) -> None:
    # GIVEN a file that no process has in its table: its FD waits in a socket
    place = Place(spawn)
    path = place.put(f"torch_{ended_pid()}_1_0")
    with place.opened() as directory:
        chosen = sort_out(directory, found_in(directory), any_name=False).removable
        one, other = socket.socketpair()
        fd = os.open(path, os.O_RDONLY)
        socket.send_fds(one, [b"x"], [fd])
        os.close(fd)
        assert found_in(directory) == ()
        ((_, reason),) = remove(directory, chosen, any_name=False)
    one.close()
    other.close()
    assert "opened it" in (reason or "")
    assert names_in(place) == {path.name}


def test_an_opener_never_loses_a_file_that_it_has_open(spawn: Spawn) -> None:
    # GIVEN a process that opens, holds and closes a file all the time
    place = Place(spawn)
    name = f"torch_{ended_pid()}_1_0"
    code = (
        "import os, select, sys, time\nprint('ready', flush=True)\nlost = held = 0\n"
        "while not select.select([0], [], [], 0)[0]:\n"
        "    try: fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "    except FileNotFoundError: continue\n"
        "    first = os.fstat(fd).st_nlink\n"
        "    time.sleep(0.0005)\n"
        "    held += first\n"
        "    lost += first - os.fstat(fd).st_nlink\n"
        "    os.close(fd); time.sleep(0.001)\n"
        "print(held > 0, lost, flush=True)\n"
    )
    opener = spawn(
        place.inside(sys.executable, "-c", code, f"/dev/shm/{name}"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert opener.stdout and opener.stdin and opener.stdout.readline() == b"ready\n"
    # WHEN it is removed again and again, with nothing but the kernel to tell whether it is open
    answers = []
    with place.opened() as directory:
        while answers.count(None) < 100 or len(set(answers)) < 2:
            if name not in names_in(place):
                place.put(name)
            (file,) = list_files(directory)
            answers.append(remove_file(directory, file.id, Users()))
    opener.stdin.close()
    opener.stdin = None
    # THEN what it had open kept its name
    assert opener.stdout.readline() == b"True 0\n"


def test_sysv_segments_go_once_their_maker_has_ended(spawn: Spawn) -> None:
    # GIVEN an IPC namespace with three segments: of an ended process, of a living one, and one attached
    place = Place(spawn)
    code = (
        "import ctypes, os, sys; c = ctypes.CDLL(None); c.shmat.restype = ctypes.c_void_p\n"
        "if os.fork() == 0:\n    print(c.shmget(0, 8192, 0o1600), flush=True); os._exit(0)\n"
        "os.wait(); print(c.shmget(0, 8192, 0o1600), flush=True)\n"
        "if os.fork() == 0:\n"
        "    i = c.shmget(0, 8192, 0o1600); print(i, flush=True); c.shmat(i, None, 0)\n"
        "    if os.fork() == 0: sys.stdin.read()\n    os._exit(0)\n"
        "os.wait(); print('ready', flush=True); sys.stdin.read()"
    )
    maker = spawn(place.inside(sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert maker.stdout
    dead, living, _ = (int(maker.stdout.readline()) for _ in range(3))
    assert maker.stdout.readline() == b"ready\n"
    # WHEN they are reaped from there
    script = (
        "import json; from amidiag.procfs.shm_directory import open_shm as o\n"
        "from amidiag.procfs.shm_orphans import find_orphans as f; from amidiag.procfs.shm_reap import *\n"
        "with o(None) as d:\n"
        "    found = f(d, sysv=True, older_than=-1).found; s = sort_out(d, found, any_name=False)\n"
        "    print(json.dumps([[x.orphan.name for x in found], s.kept, list(remove(d, s.removable, any_name=False))]))"
    )
    done = subprocess.run(
        place.inside(sys.executable, "-c", script), capture_output=True, text=True, check=False
    )
    found, kept, removed = json.loads(done.stdout)
    # THEN the attached one is no orphan, and that of the living maker stays
    assert found == [f"sysv:{dead}", f"sysv:{living}"]
    assert removed == [[f"sysv:{dead}", None]]
    assert list(kept) == [f"sysv:{living}"]


def test_a_user_who_is_not_root_reaps_what_is_his_own(spawn: Spawn) -> None:
    # GIVEN a user who cannot look into other processes, with an orphan of his own and one of root's
    place = Place(spawn)
    own, foreign = f"torch_{ended_pid()}_1_0", place.put("psm_0123abcd").name
    place.shm.chmod(0o1777)
    done = subprocess.run(
        place.inside(sys.executable, str(PROGRAMS / "reap_as.py"), "65534", own),
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(done.stdout)
    # THEN the kernel makes him certain of his own, and of that alone
    assert said["certain"] == {f"/dev/shm/{own}": True, f"/dev/shm/{foreign}": False}
    assert said["done"] == {f"/dev/shm/{own}": None}
    assert "run as root" in said["kept"][f"/dev/shm/{foreign}"]
    assert names_in(place) == {foreign}


def test_the_table_of_sysv_segments_is_read_here_too() -> None:
    libc = ctypes.CDLL(None)
    shmid = libc.shmget(0, 12345, 0o1600)
    (row,) = [row for row in read_sysv() if row.shmid == shmid]
    libc.shmctl(shmid, 0, None)
    assert (row.size, row.attached, row.creator, row.doomed) == (12345, 0, os.getpid(), False)
    assert not [row for row in read_sysv() if row.shmid == shmid]


def test_where_the_kernel_does_not_answer_nothing_is_certain_unless_all_was_seen(
    spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a file of another user, and amidiag without the right to ask for leases on it (CAP_LEASE)
    place = Place(spawn)
    path = place.put(f"torch_{ended_pid()}_1_0")
    os.chown(path, 65534, 65534)
    command = ["setpriv", "--bounding-set=-lease", "--inh-caps=-lease", sys.executable, "-m", "amidiag"]
    done = subprocess.run(
        place.inside(*command, "shm", "--reap", "--yes", "--older-than", "0s", "--json"),
        capture_output=True,
        text=True,
        check=False,
    )
    data = json.loads(done.stdout)["data"]
    ((_, reason),) = data["kept"].items() if data["kept"] else ((path.name, None),)
    # THEN it goes only where every process was seen, which here and there PID 1 forbids even to root
    assert data["orphans"][0]["certain"] is (reason is None)
    assert path.exists() is (reason is not None)
    # AND with every process seen, the look at all of them is what decides: forced, so that both are tried
    again = place.put("psm_0123abcd")
    monkeypatch.setattr("amidiag.procfs.lease._ask", lambda _: "unknown")
    monkeypatch.setattr(Users, "sees_all", True)
    fd = os.open(again, os.O_RDONLY)
    with place.opened() as directory:
        (file,) = [file for file in list_files(directory) if file.id.name == again.name]
        assert "opened it" in (remove_file(directory, file.id, Users()) or "")
        os.close(fd)
        assert remove_file(directory, file.id, Users()) is None
    assert not again.exists()
