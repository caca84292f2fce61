"""Children: forked, spawned, made by exec, at EMFILE, from threads; which region each has, and which file."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from trace_programs import Programs, Running, lines, made_in, path_of, region_of, regions

from amidiag.attach.trace_files import read_table
from amidiag.target.trace_file import TraceFile
from amidiag.target.trace_layout import R_RESERVED

# Says the inode of the pipe that it makes, and waits.
LEAF = """import json, os, signal, sys
held = os.pipe()
print(json.dumps([os.getpid(), os.fstat(held[0]).st_ino]), flush=True)
signal.pause()
"""


def noted(programs: Programs, pid: int, inode: int, file: str = "program.py") -> list[int]:
    """The lines of the records of that pipe in the process's own region."""
    return lines([one for one in made_in(region_of(programs.tables, pid)) if one.inode == inode], file=file)


FAMILY = """
import json, multiprocessing, os, signal, sys, threading
def leaf(*_):
    held = os.pipe()  # leaf
    sys.stdout.write(json.dumps([os.getpid(), os.fstat(held[0]).st_ino]) + "\\n"); sys.stdout.flush()
    signal.pause()
def fork(then):
    pid = os.fork()  # fork
    if pid == 0:
        then()
        os._exit(0)
if __name__ == "__main__":
    how = sys.argv[1]
    if how == "fork":
        fork(leaf)
    elif how == "grandchild":
        fork(lambda: fork(leaf) or signal.pause())
    elif how == "fork_in_thread":
        threading.Thread(target=fork, args=(leaf,)).start()
    elif how == "forkpty":
        pid, fd = os.forkpty()
        if pid == 0:
            leaf()
        sys.stdout.write(os.fdopen(fd).readline()); sys.stdout.flush()
    else:
        multiprocessing.set_start_method(how)
        multiprocessing.Process(target=leaf).start()
    signal.pause()
"""


@pytest.mark.parametrize("how", ["fork", "grandchild", "fork_in_thread", "forkpty", "spawn", "forkserver"])
def test_a_child_notes_what_it_makes(every_python: Programs, how: str) -> None:
    program = every_python.start(FAMILY, how)
    pid, inode = program.said()
    assert noted(every_python, pid, inode) == [4]
    region = region_of(every_python.tables, pid)
    assert region.errors == 0
    if how in ("fork", "fork_in_thread"):
        above = program.region()
        assert region.parent == (above.pid, above.claimed)
        assert 8 in {frame.line for frame in above.stack(region.parent_site)}


EXECS = {
    "execv": "os.execv(sys.executable, [sys.executable, LEAF])",
    "execve": "os.execve(sys.executable, [sys.executable, LEAF], dict(os.environ))",
    "execvpe": "os.execvpe(sys.executable, [sys.executable, LEAF], {**os.environ, 'MORE': '1'})",
    "posix_spawn": "os.posix_spawn(sys.executable, [sys.executable, LEAF], os.environ)",
    "popen": "subprocess.Popen([sys.executable, LEAF])",
    "popen_own_environment": "subprocess.Popen([sys.executable, LEAF], env={**os.environ})",
    "popen_own_path": "os.environ.update(PYTHONPATH='/x'); subprocess.Popen([sys.executable, LEAF])",
    "popen_no_path": "os.environ.update(PYTHONPATH='/x'); del os.environ['PYTHONPATH']\n"
    "subprocess.Popen([sys.executable, LEAF])",
    "popen_preexec": "subprocess.Popen([sys.executable, LEAF], preexec_fn=os.getpid)",
    "popen_posix_spawn": "subprocess.Popen([sys.executable, LEAF], close_fds=False)",
    "system": "os.environ.update(PYTHONPATH='/x'); os.system(f'{sys.executable} {LEAF} &')",
    "shell": "subprocess.Popen(f'exec {sys.executable} {LEAF}', shell=True)",
}


@pytest.mark.parametrize("how", EXECS)
def test_a_program_that_is_started_is_traced(every_python: Programs, how: str) -> None:
    leaf = every_python.script(LEAF, "leaf.py")
    code = f"import os, signal, subprocess, sys\nLEAF = {leaf!r}\n{EXECS[how]}\nsignal.pause()\n"
    program = every_python.start(code)
    pid, inode = program.said()
    assert noted(every_python, pid, inode, "leaf.py") == [2]
    if not how.startswith("exec") and how != "system":
        assert pid in [one.inode for one in program.made() if one.kind == "process"]


@pytest.mark.parametrize("how", ["subprocess.Popen([sys.executable, LEAF], env={})", "LEFT"])
def test_a_child_whose_environment_asks_for_none_is_not_traced(programs: Programs, how: str) -> None:
    leaf = programs.script(LEAF, "leaf.py")
    how = how.replace("LEFT", "del os.environ['AMI_DIAG_TRACE']; subprocess.Popen([sys.executable, LEAF])")
    program = programs.start(f"import os, signal, subprocess, sys\nLEAF = {leaf!r}\n{how}\nsignal.pause()\n")
    pid, _ = program.said()
    assert pid not in [region.pid for region in regions(programs.tables)]


def test_regions_are_given_again_after_their_owners_death(programs: Programs) -> None:
    """GIVEN 300 children one after the other THEN the table does not grow, and the last ones can be read."""
    code = """
import json, os
for number in range(300):
    pid = os.fork()
    if pid == 0:
        for _ in range(number % 7 + 1):
            held = os.pipe()
        os._exit(0)
    os.waitpid(pid, 0)
print(json.dumps(pid), flush=True)
input()
"""
    program = programs.start(code)
    last = program.said()
    table = program.table()
    assert table.untraced_forks == 0 and len(table.regions) <= 9
    assert len(made_in(region_of(programs.tables, last))) == 299 % 7 + 1
    for region in table.regions:
        assert all(one.stack for one in made_in(region))


def test_many_children_at_once_have_a_region_each(programs: Programs) -> None:
    """GIVEN more children than the table had room for at first THEN it grows; beyond its bound they are counted."""
    code = """
import json, os, signal
pids = []
for number in range(290):
    pid = os.fork()
    if pid == 0:
        held = os.pipe()
        os.write(1, b"%d\\n" % os.getpid())
        signal.pause()
    pids.append(pid)
input()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print("0", flush=True)
input()
"""
    program = programs.start(code)
    pids = {program.said() for _ in range(290)}
    table = program.table()
    own = {region.pid for region in table.regions}
    assert len(own & pids) >= 250
    assert table.untraced_forks == len(pids - own)
    # Those without one in their parent's table have made their own.
    all_regions = {region.pid: region for region in regions(programs.tables)}
    assert all(made_in(all_regions[pid]) for pid in pids)
    program.go_on()
    program.said()


def test_a_child_forked_at_emfile_notes(programs: Programs) -> None:
    """GIVEN every FD in use WHEN the process forks, and its child closes some THEN the child's things are noted."""
    code = """
import json, os, resource, signal
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = []
try:
    while True:
        kept.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    assert error.errno == 24
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        for fd in kept[:3]:
            os.close(fd)
        held = os.pipe()  # child
        os.write(1, json.dumps([os.getpid(), os.fstat(held[0]).st_ino]).encode() + b"\\n")
        signal.pause()
signal.pause()
"""
    program = programs.start(code)
    for pid, inode in [program.said() for _ in range(4)]:
        assert noted(programs, pid, inode) == [15]
    region = program.region()
    assert region.emfile == 1 and region.errors == 0 and program.table().untraced_forks == 0


def test_a_daemon_goes_on_noting_after_its_parents_ended(programs: Programs) -> None:
    """GIVEN a program that becomes a daemon by two forks, its parents ending in an orderly way THEN the table stays
    where the daemon's region is, as long as it lives, and other programs leave it there."""
    code = """
import json, os, signal, sys
if os.fork(): sys.exit(0)
os.setsid()
if os.fork(): sys.exit(0)
os.chdir("/")
os.closerange(3, 4096)
held = os.pipe()
print(json.dumps([os.getpid(), os.fstat(held[0]).st_ino]), flush=True)
signal.pause()
"""
    program = programs.start(code)
    pid, inode = program.said()
    program.process.wait()
    try:
        assert noted(programs, pid, inode) == [8]
        before = set(os.listdir(programs.tables))
        for path in programs.tables.iterdir():
            os.utime(path, (1, 1))
        assert programs.run("pass").returncode == 0
        assert set(os.listdir(programs.tables)) <= before
        assert noted(programs, pid, inode) == [8]
    finally:
        os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists() and b"Z" not in Path(f"/proc/{pid}/stat").read_bytes():
        time.sleep(0.01)
    for path in programs.tables.iterdir():
        os.utime(path, (1, 1))
    assert programs.run("pass").returncode == 0
    assert os.listdir(programs.tables) == []


ENDS = {
    "orderly": ("pass", 0),
    "exit": ("sys.exit(3)", 0),
    "in_a_child": ("os.fork() and os.wait(); sys.exit(0)", 0),
    "a_child_nobody_waited_for": (
        "os.fork() or os._exit(0); os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)",
        0,
    ),
    "uncaught": ("raise ValueError", 1),
    "at_emfile": (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\ntry: os.pipe()\nexcept OSError: pass",
        1,
    ),
    "killed": ("os.kill(os.getpid(), 9)", 1),
    "os_exit": ("os._exit(0)", 1),
    "exec": ("os.execv('/bin/true', ['true'])", 1),
}


@pytest.mark.parametrize("how", ENDS)
def test_what_is_left_behind(programs: Programs, how: str) -> None:
    """After an orderly end nothing; else the table, which can be read."""
    code, left = ENDS[how]
    done = programs.run(f"import os, sys\nheld = os.pipe()\n{code}\n")
    assert "amidiag" not in done.stderr
    paths = list(programs.tables.glob("*"))
    assert len(paths) == left
    for path in paths:
        table = read_table(str(path))
        assert table.program == "program.py"
        assert 2 in lines(made_in(table.regions[0]))


def test_a_program_that_replaces_itself_leaves_few_tables(programs: Programs) -> None:
    """GIVEN a program that reloads itself by exec, thirty times THEN of its earlier lives the last two are there."""
    code = """
import os, sys
held = os.pipe()
count = int(sys.argv[1]) if len(sys.argv) > 1 else 0
if count < 30:
    os.execv(sys.executable, [sys.executable, __file__, str(count + 1)])
print("0", flush=True)
input()
"""
    program = programs.start(code)
    program.said()
    assert len(os.listdir(programs.tables)) == 3
    assert lines(made_in(read_table(str(path_of(programs.tables, program.process.pid))).regions[0])) == [3]
    assert program.end() == 0
    assert len(os.listdir(programs.tables)) == 2


def test_of_the_dead_only_some_are_kept(programs: Programs) -> None:
    for _ in range(24):
        programs.run("import os; os._exit(0)")
    assert len(os.listdir(programs.tables)) == 21
    for path in programs.tables.iterdir():
        os.utime(path, (1, 1))
    programs.run("import os; os._exit(0)")
    assert len(os.listdir(programs.tables)) == 1


def test_the_runtime_directory_may_vanish(programs: Programs) -> None:
    """GIVEN a program whose tables are removed under it THEN it forks, starts others and ends as if they were there."""
    code = """
import os, shutil, subprocess, sys
shutil.rmtree(os.environ["AMIDIAG_RUNTIME_DIR"], ignore_errors=True)
for number in range(30):
    pid = os.fork()
    if pid == 0:
        os.pipe()
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        os._exit(number)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(subprocess.run([sys.executable, "-c", "import os; os.pipe(); print(1)"], capture_output=True))
"""
    assert programs.same(code).stderr == ""


def _file(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> TraceFile:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(programs.tables))
    return TraceFile(slots=64)


def test_a_region_that_no_child_takes_up_is_given_again_later(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN forks that failed THEN their regions are kept a while, for children that are slow, and then given again;
    a child that comes later still finds that it is too late."""
    file = _file(programs, monkeypatch)
    reserved = [file.reserve((1, 1), 0) for _ in range(20)]
    assert len({(id(one._memory), one._at) for one in reserved if one}) == 20
    for one in reserved:
        assert one
        one._memory[one._at : one._at + 256].cast("Q")[R_RESERVED] -= 61_000_000_000
        one._stamp -= 61_000_000_000
    again = [file.reserve((1, 1), 0) for _ in range(20)]
    assert {(id(one._memory), one._at) for one in again if one} == {
        (id(one._memory), one._at) for one in reserved if one
    }
    assert reserved[0] and reserved[0].claim() is None
    assert again[0] and again[0].claim() is not None
    file.unlink()


def test_threads_that_fork_at_once_have_a_region_each(programs: Programs) -> None:
    """GIVEN eight threads that fork all the time THEN no two children write into one region."""
    code = """
import ctypes, json, os, sys, threading
sys.setswitchinterval(1e-5)
def fork_and_fork(number):
    for turn in range(25):
        names = {"os": os}
        exec(compile("\\n" * (number * 100 + turn) + "def make(): return os.pipe()", "/made.py", "exec"), names)
        pid = os.fork()
        if pid == 0:
            ends = [names["make"]() for _ in range(20)]
            inodes = [os.fstat(end[0]).st_ino for end in ends]
            report = [os.getpid(), number * 100 + turn + 1, inodes]
            os.write(1, json.dumps(report).encode() + b"\\n")
            os.read(gate[0], 1)
            os._exit(0)
        with lock:
            children.append(pid)
lock, children, gate = threading.Lock(), [], os.pipe()
threads = [threading.Thread(target=fork_and_fork, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
input()
os.close(gate[1])
for pid in children: os.waitpid(pid, 0)
"""
    program: Running = programs.start(code)
    reports = [program.said() for _ in range(200)]
    found = {region.pid: made_in(region) for region in regions(programs.tables)}
    for pid, line, inodes in reports:
        pipes = {one.inode: one for one in found[pid] if one.kind == "pipe"}
        assert set(inodes) == set(pipes)
        assert set(lines(list(pipes.values()), file="made.py")) == {line}
    if sys.version_info < (3, 12):
        assert program.table().untraced_forks == 0
