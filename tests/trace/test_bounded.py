"""What is full, forbidden or not to be had: resources are dropped and counted, the program runs on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from trace_programs import Programs, lines

WARNING = "amidiag: tracing is off: OSError: "


def test_a_full_table_counts_what_it_drops(every_python: Programs) -> None:
    """GIVEN room for 16 WHEN 100 pipes are open THEN 16 are known, 84 counted; room again when they are closed."""
    code = """
import os
held = [os.pipe() for _ in range(100)]
print("0", flush=True)
input()
for ends in held:
    for fd in ends: os.close(fd)
import time; time.sleep(1.1)  # Of a crowded table it is asked once a second what is closed.
for _ in range(1000):
    for fd in os.pipe(): os.close(fd)
late = [os.pipe() for _ in range(4)]  # late
print("0", flush=True)
input()
"""
    program = every_python.start(code, AMIDIAG_TRACE_SLOTS="16")
    program.said()
    region = program.region()
    assert (len(region.slots), region.no_slot, region.errors) == (16, 84, 0)
    program.go_on()
    program.said()
    region = program.region()
    assert region.no_slot == 84 and region.swept_at > 0
    assert lines(program.made()).count(11) == 4


def test_more_call_sites_than_the_table_holds(programs: Programs) -> None:
    """GIVEN more stacks than there is room for THEN the rest is noted without one, and counted."""
    code = """
import json, os
def at(number):
    names = {"os": os}
    exec(compile("\\n" * number + "def make(): return os.pipe()", "/made.py", "exec"), names)
    return names["make"]()
made = []
for number in range(5000):
    held = at(number)
    made.append((number + 1, os.fstat(held[0]).st_ino))
    if number < 4990:
        os.close(held[0]), os.close(held[1])
print(json.dumps(made[-10:]), flush=True)
input()
"""
    program = programs.start(code)
    last = program.said()
    region = program.region()
    assert region.no_site >= 800 and region.errors == 0
    known = {one.inode: one for one in program.made()}
    assert [known[inode].stack for _, inode in last] == [()] * 10


def test_code_that_is_made_anew_each_time_is_no_new_line(programs: Programs) -> None:
    """GIVEN a line whose code object is another each time (a template, `exec`) THEN it does not fill the table."""
    code = """
import json, os
source = "def make(): return os.pipe()"
for number in range(20000):
    names = {"os": os}
    exec(compile(source, "/made.py", "exec"), names)
    ends = names["make"]()
    os.close(ends[0]), os.close(ends[1])
held = os.pipe()
print(json.dumps(os.fstat(held[0]).st_ino), flush=True)
input()
"""
    program = programs.start(code)
    inode = program.said()
    assert program.region().no_site == 0
    assert lines([one for one in program.made() if one.inode == inode]) == [9]


SWEEPS = """
import ctypes, multiprocessing, os, resource, socket, sys, threading
lock = multiprocessing.Lock()  # lock
regular = open(__file__)  # regular
pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], os.environ)  # child
libc = ctypes.CDLL(None)
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
SETUP
mapped = os.memfd_create("mapped")  # mapped
os.ftruncate(mapped, 4096)
libc.mmap(None, 4096, 3, 1, mapped, 0)
os.close(mapped)
segment = os.memfd_create("segment")  # segment
pair = socket.socketpair()  # pair
event = os.eventfd(0)  # event
thread = threading.Thread(target=threading.Event().wait, daemon=True)
thread.start()  # thread
again = os.dup(os.pipe()[0])  # dup
os.closerange(again - 2, again)
closed = [os.open(".", os.O_RDONLY) for _ in range(20)]
for fd in closed: os.close(fd)
for _ in range(9000):
    for fd in os.pipe(): os.close(fd)
    if _ % 4 == 0: os.close(os.memfd_create("closed"))
print("0", flush=True)
input()
os.kill(pid, 9)
"""


@pytest.mark.parametrize(
    ("setup", "asked"),
    [
        ("pass", True),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (60, 4096))", True),
        (
            "many = [os.dup(0) for _ in range(200)]; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))",
            True,
        ),
        ("os.chroot('.')", False),
    ],
    ids=("plain", "close_to_the_limit", "at_the_limit", "no_proc"),
)
def test_what_is_open_stays_known_when_the_closed_is_forgotten(
    every_python: Programs, setup: str, asked: bool
) -> None:
    """GIVEN more resources made and closed than are kept at once THEN none that is open, mapped, duplicated or
    alive is forgotten; and where it cannot be asked what is open (no `/proc` in a changed root), nothing is."""
    if "chroot" in setup and os.getuid():
        pytest.skip("only root may change its root")
    code = SWEEPS.replace("SETUP", setup)
    program = every_python.start(code)
    program.said()
    region = program.region()
    assert region.errors == 0 and region.no_slot == 0
    marked = enumerate(code.splitlines(), start=1)
    marks = {line.rpartition("# ")[2]: number for number, line in marked if "  # " in line}
    found = lines(program.made())
    assert {mark for mark, line in marks.items() if line not in found} == set()
    assert (len(region.slots) < 9000) is asked


def test_a_limit_that_is_lowered_below_what_is_open(programs: Programs) -> None:
    """GIVEN FDs above the limit THEN it is not asked, since not all can be seen, and nothing is forgotten."""
    code = """
import os, resource
high = [os.pipe() for _ in range(300)]  # high
for _ in range(200): high.append(high.pop(0))
for ends in high[:250]:
    for fd in ends: os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, (140, 4096))
for _ in range(6000):
    for fd in os.pipe(): os.close(fd)
print("0", flush=True)
input()
"""
    program = programs.start(code)
    program.said()
    region = program.region()
    assert region.errors == 0
    assert lines(program.made()).count(3) >= 50


CHILDREN = """
import os, subprocess, sys
print(os.pipe(), sys.argv[1:], os.environ.get("PYTHONPATH"))
pid = os.fork()
if pid == 0:
    open("/dev/null")
    os._exit(0)
print(os.waitpid(pid, 0)[1])
print(subprocess.run([sys.executable, "-c", "import os; print(os.pipe(), 7)"], capture_output=True))
"""


def _bare_and(programs: Programs, *wrapper: str) -> tuple[subprocess.CompletedProcess[str], ...]:
    script = programs.script(CHILDREN)
    return tuple(
        subprocess.run(
            [*wrapper, programs.python, script, "x"],
            env=programs.env(traced=traced),
            capture_output=True,
            text=True,
            check=False,
            cwd=programs.directory,
        )
        for traced in (False, True)
    )


def test_a_limit_on_files_leaves_it_off_with_one_warning(every_python: Programs) -> None:
    """GIVEN no file may grow THEN it says so once, the program runs, and its children say nothing."""
    bare, done = _bare_and(every_python, "prlimit", "--fsize=4096")
    assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout) and bare.returncode == 0
    assert done.stderr.startswith(WARNING) and done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert list(every_python.tables.glob("*")) == []


@pytest.mark.root
@pytest.mark.parametrize("log", ["2>$OUT/err", "2>$D/log"], ids=("elsewhere", "there_too"))
def test_a_full_file_system_leaves_it_off_with_one_warning(every_python: Programs, log: str) -> None:
    """GIVEN a file system with a few pages left, and perhaps the program's own log on it THEN the program runs."""
    target = every_python.directory / "small"
    target.mkdir()
    command = (
        f"mount -t tmpfs -o size=256k,mode=700 tmpfs {target} && D={target} && OUT={every_python.directory} && "
        f"AMIDIAG_RUNTIME_DIR={target}/tables && export AMIDIAG_RUNTIME_DIR && "
        f"head -c 245760 /dev/zero > {target}/fill; cat /dev/zero > {target}/log 2>/dev/null; "
        f"{every_python.python} {every_python.script(CHILDREN)} x > {every_python.directory}/out {log}; "
        f"echo $? > {every_python.directory}/code"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env=every_python.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount may be made here")
    bare, _ = _bare_and(every_python)
    assert (every_python.directory / "code").read_text() == "0\n", done.stderr
    assert (every_python.directory / "out").read_text() == bare.stdout
    if "OUT" in log:
        said = (every_python.directory / "err").read_text()
        assert said.startswith(WARNING) and said.count("\n") == 1
        assert "No space left on device" in said


@pytest.mark.root
def test_a_file_system_that_fills_up_later(programs: Programs) -> None:
    """GIVEN room for the table but not for more children's regions THEN more children are started all the same."""
    code = """
import os, time
pids = []
for number in range(40):
    pid = os.fork()
    if pid == 0:
        os.pipe()
        time.sleep(0.5)
        os._exit(0)
    pids.append(pid)
print({os.waitpid(pid, 0)[1] for pid in pids})
"""
    target = programs.directory / "small"
    target.mkdir()
    command = (
        f"mount -t tmpfs -o size=7m,mode=700 tmpfs {target} && "
        f"AMIDIAG_RUNTIME_DIR={target}/tables {programs.python} {programs.script(code)}"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env=programs.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount may be made here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{0}\n", "")


def test_stderr_that_cannot_be_written(programs: Programs) -> None:
    """GIVEN nobody can be told that tracing is off THEN the program runs nevertheless."""
    for redirection in ("2>/dev/full", "2>&-", "2>&1 | true"):
        script = programs.script("print('runs', file=open('out', 'w'))")
        done = subprocess.run(
            ["sh", "-c", f"{sys.executable} {script} {redirection}"],
            env=programs.env(AMIDIAG_RUNTIME_DIR="/proc/nothing"),
            cwd=programs.directory,
            check=False,
        )
        assert done.returncode == 0
        assert (programs.directory / "out").read_text() == "runs\n"
        (programs.directory / "out").unlink()
