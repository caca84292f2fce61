"""The tracer writes, the reader reads: whole programs, from the hook to the row."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amidiag.attach.call_sites import NotTraced, read_post_mortem, read_trace
from amidiag.attach.grouping import call_sites, group
from amidiag.attach.saved_trace import save
from amidiag.attach.trace_files import find_dead, find_tables, list_tables
from amidiag.procfs.identity import identify

Start = Callable[..., subprocess.Popen[str]]

HEAD = """
import os, resource, signal, socket, subprocess, sys, threading
from amidiag.target.tracer import install
tracer = install()
assert tracer.error is None, tracer.error
def ready(*words):
    print(*words, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def start(runtime: Path, tmp_path: Path) -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(code: str) -> subprocess.Popen[str]:
        script = tmp_path / f"program{len(running)}.py"
        script.write_text((HEAD + code).lstrip())
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        assert process.stdout and process.stdout.readline()
        return process

    yield begin
    for process in running:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.wait()
        process.communicate()


def say(process: subprocess.Popen[str]) -> str:
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


AT_EMFILE = """
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
def leak():
    return os.pipe()
def churn():
    for end in os.pipe():
        os.close(end)
churn()
try:
    while True:
        leak()
except OSError:
    ready()
"""


def test_a_leak_at_emfile_is_one_row(start: Start) -> None:
    # GIVEN a program that has leaked pipes until EMFILE
    process = start(AT_EMFILE)
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == 2000
    # WHEN it is read
    reading = read_trace(process.pid)
    rows, rest = group(reading)
    # THEN one row has all of them, none of what was closed
    (row,) = rows
    assert row.by_type == {"pipe": row.count}
    assert row.count > 1980 and row.group.endswith("program0.py:11 leak")
    assert [frame.rpartition(" ")[2] for frame in row.stack] == ["<module>", "leak"]
    assert rest is not None and row.count + rest.count == len(os.listdir(f"/proc/{process.pid}/fd"))
    # AND the tracer's books say that FDs ran out
    (books,) = reading.processes
    assert books.emfile == 1 and books.emfile_at is not None
    assert (books.no_slot, books.torn, books.errors) == (0, 0, 0)
    # AND a finding names the line
    assert call_sites(reading, "fd.pipe")[0].count == row.count
    # WHEN it is killed
    process.kill()
    process.wait()
    # THEN what it left says the same, one record for both ends of a pipe
    (path,) = find_dead(process.pid)
    dead = read_post_mortem(path)
    ((row, *_), _) = group(dead, types=("pipe",))
    assert row.group.endswith("program0.py:11 leak") and row.count > 990
    assert [books.emfile > 0 for books in dead.processes] == [True]


FAMILY = """
made = [socket.socketpair(), os.memfd_create("m"), os.eventfd(0), open(os.devnull)]
def work():
    made.append(os.pipe())
    signal.pause()
def child():
    pid = os.fork()
    if pid == 0:
        work()
    return pid
children = [child() for _ in range(3)]
other = subprocess.Popen(["sleep", "300"])
worker = threading.Thread(target=threading.Event().wait, daemon=True)
worker.start()
ready(*children)
late = [os.eventfd(0), os.memfd_create("late")]
ready("again")
os.execvp("sleep", ["sleep", "300"])
"""


def test_a_family_since_a_mark_and_through_an_exec(start: Start) -> None:
    # GIVEN a program with forked children, a thread and a process
    process = start(FAMILY)
    reading = read_trace(process.pid, tree=True)
    rows, _ = group(reading)
    by_line = {int(row.group.rpartition(":")[2].split()[0]): row for row in rows}
    # THEN each line has what it made, here and where it was inherited
    assert by_line[9].by_type == {"socket": 8, "memfd": 4, "eventfd": 4, "device": 4}
    assert by_line[11].by_type == {"pipe": 6} and len(by_line[11].by_process) == 3
    assert by_line[14].by_type == {"process": 3} and by_line[14].by_process == {str(process.pid): 3}
    assert by_line[19].by_type == {"process": 1} and by_line[21].by_type == {"thread": 1}
    assert len(reading.processes) == 4 and reading.processes[0].pid == process.pid
    assert any("(sleep)" in note for note in reading.notes)
    # AND the children alone, too
    child = reading.processes[1].pid
    assert {o.type for o in read_trace(child).opened if o.made} == {
        "socket",
        "memfd",
        "eventfd",
        "device",
        "pipe",
    }
    # WHEN more is made after a mark
    mark = save(reading)
    assert group(read_trace(process.pid, tree=True), since=mark)[0] == ()
    say(process)
    rows, rest = group(read_trace(process.pid, tree=True), since=mark)
    # THEN only that is shown
    assert [(row.by_type, row.by_process) for row in rows] == [
        ({"eventfd": 1, "memfd": 1}, {str(process.pid): 2})
    ]
    assert rest is not None and rest.count == 0
    # AND when it has become another program, nothing is left open here, and its table still tells the children
    (table, *_) = find_tables(identify(process.pid))
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        pass
    after = read_trace(process.pid, tree=True)
    assert {o.type for o in after.opened if o.made and o.pid == process.pid} == {"process"}
    assert [file.path for file in list_tables() if file.alive] == [table.path]


OFF = """
kept = os.pipe()
child = os.fork()
if child == 0:
    mine = os.pipe()
    signal.pause()
ready(child)
tracer.uninstall()
ready("off")
"""


def test_children_are_traced_after_their_parent(start: Start) -> None:
    # GIVEN a program that has switched tracing off after a fork
    process = start(OFF)
    (child,) = [o.key[0] for o in read_trace(process.pid).opened if o.type == "process"]
    assert isinstance(child, int)
    say(process)
    # THEN if its table is still there, for the child, that says that it is off here
    with contextlib.suppress(NotTraced):
        assert read_trace(process.pid).processes[0].off_since is not None
    # AND the child goes on, with what it inherited and what it made, also when its parent is gone
    for _ in range(2):
        made = [o.made.stack[0].line for o in read_trace(child).opened if o.made]
        assert sorted(made) == [9, 9, 12, 12]
        process.kill()
        process.wait()
