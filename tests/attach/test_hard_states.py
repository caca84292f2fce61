"""Processes that cannot help: stopped, at EMFILE, hung, dying, in other namespaces, of other users."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attach_hands import Hands, StartHands
from attach_tables import TableWriter, boottime
from test_join import line, note, of_fd

from amidiag.attach.call_sites import NotTraced, read_trace
from amidiag.procfs.errors import CannotObserve, NoPermission, ProcessGone, ReaderExhausted
from amidiag.procfs.identity import identify
from amidiag.procfs.processes import read_stat
from amidiag.target import trace_layout as layout
from amidiag.target.trace_layout import BY_INODE

Take = Callable[[], Path]
NOBODY = 65534


@pytest.mark.timeout(30)
def test_a_stopped_process_is_read(hands: Hands, table: TableWriter, take: Take) -> None:
    ends = hands.pipe_made(table, 1)
    take()
    os.kill(hands.pid, signal.SIGSTOP)
    try:
        while read_stat(hands.pid).state != "T":
            pass
        assert line(of_fd(read_trace(hands.pid), ends[0]["fd"])) == 1
    finally:
        os.kill(hands.pid, signal.SIGCONT)


def test_a_process_at_emfile_is_read(hands: Hands, table: TableWriter, take: Take) -> None:
    # GIVEN a process that cannot open one FD more
    made = [hands.pipe_made(table, number) for number in range(12)]
    take()
    resource.prlimit(hands.pid, resource.RLIMIT_NOFILE, (3, 64))
    reading = read_trace(hands.pid)
    assert [line(of_fd(reading, ends[1]["fd"])) for ends in made] == list(range(12))


@pytest.mark.root
def test_in_another_mount_namespace(start_hands: StartHands) -> None:
    # GIVEN a process whose table lies on a file system that only it sees
    script = 'mount -t tmpfs -o mode=700 none /mnt && exec "$@"'
    hands = start_hands(wrapper=("unshare", "--mount", "sh", "-c", script, "sh"))
    table = TableWriter(hands.pid, identify(hands.pid).start_ticks)
    ends = hands.do("pipe")
    table.claim(hands.pid, boottime())
    note(table, "pipe", BY_INODE, ends[0], 1, at=hands.at)
    there = Path(f"/proc/{hands.pid}/root/mnt/x.trace")
    table.save(there)
    hands.do("take /mnt/x.trace")
    assert not os.path.exists("/mnt/x.trace")
    reading = read_trace(hands.pid)
    assert line(of_fd(reading, ends[0]["fd"])) == 1
    assert reading.file == "/mnt/x.trace"


@pytest.mark.root
def test_in_another_pid_namespace(start_hands: StartHands, runtime: Path) -> None:
    # GIVEN a process that calls itself 1, with a thread and a child whose numbers are others too
    wrapper = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    hands = start_hands(wrapper=wrapper)
    assert hands.own_pid == 1
    children = Path(f"/proc/{hands.pid}/task/{hands.pid}/children").read_text()
    pid = int(children)
    table = TableWriter(1, identify(pid).start_ticks)
    table.claim(1, boottime())
    site = table.site([("/srv/program.py", "main", 1)])
    inside = hands.do("thread")
    table.slot("thread", layout.BY_THREAD, inode=inside, at=hands.at, site=site)
    child = hands.do("child")
    table.slot("process", layout.BY_PROCESS, inode=child, at=hands.at, site=site)
    ends = hands.do("pipe")
    note(table, "pipe", BY_INODE, ends[0], 2, at=hands.at)
    hands.do(f"take {table.save(runtime / 'x.trace')}")
    # WHEN it is read from outside
    reading = read_trace(pid)
    # THEN its own numbers are understood, and ours are shown
    assert line(of_fd(reading, ends[0]["fd"])) == 2
    (thread,) = [o for o in reading.opened if o.type == "thread"]
    (process,) = [o for o in reading.opened if o.type == "process"]
    assert (line(thread), line(process)) == (1, 1)
    assert thread.key != (inside,) and process.key != (child,)
    assert [p.pid for p in reading.processes] == [pid]


@pytest.mark.root
def test_the_table_of_another_user_is_not_believed(hands: Hands, table: TableWriter, take: Take) -> None:
    hands.pipe_made(table, 1)
    path = take()
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(NotTraced, match="belongs to another user"):
        read_trace(hands.pid)


@pytest.mark.root
def test_root_reads_the_process_of_a_user(start_hands: StartHands) -> None:
    # Not under pytest's own directory, where `nobody` may not go.
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        hands = start_hands(NOBODY)
        table = TableWriter(hands.pid, identify(hands.pid).start_ticks)
        table.claim(hands.pid, boottime())
        ends = hands.do("pipe")
        note(table, "pipe", BY_INODE, ends[0], 1, at=hands.at)
        path = table.save(Path(directory) / "x.trace")
        os.chown(path, NOBODY, NOBODY)
        hands.do(f"take {path}")
        assert line(of_fd(read_trace(hands.pid), ends[0]["fd"])) == 1


LOOK = """
import os, pwd, sys
from amidiag.attach.call_sites import read_trace
from amidiag.procfs.errors import CannotObserve
assert pwd
if int(sys.argv[1]):
    os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
else:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), 64))
try:
    print(len(read_trace(int(sys.argv[2])).opened))
except CannotObserve as error:
    print(type(error).__name__, error)
"""


def look(*arguments: object) -> str:
    """What another reader says: as a user, or with few FDs."""
    command = [sys.executable, "-c", LOOK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.root
def test_a_user_is_refused_the_process_of_root(hands: Hands, table: TableWriter, take: Take) -> None:
    hands.pipe_made(table, 1)
    take()
    said = look(NOBODY, hands.pid)
    assert said.startswith(NoPermission.__name__)
    assert "Run as root" in said


def test_a_reader_without_fds_says_so(hands: Hands, table: TableWriter, take: Take) -> None:
    hands.pipe_made(table, 1)
    event = hands.do("eventfd")
    note(table, "eventfd", layout.BY_FD, event, 2, at=hands.at, extra=event["id"] + 1)
    table.slot("thread", layout.BY_THREAD, inode=hands.do("thread"), at=boottime())
    take()
    for few in range(3, 8):
        said = look(0, hands.pid, few)
        assert said.startswith(ReaderExhausted.__name__) or int(said) > 0
    assert look(0, hands.pid, 3).startswith(ReaderExhausted.__name__)


@pytest.mark.root
def test_a_table_that_was_deleted_is_read_behind_the_mapping(
    hands: Hands, table: TableWriter, take: Take
) -> None:
    ends = hands.pipe_made(table, 1)
    path = take()
    path.unlink()
    reading = read_trace(hands.pid)
    assert line(of_fd(reading, ends[0]["fd"])) == 1
    assert reading.file == str(path)


@pytest.mark.root
def test_only_root_may_read_a_deleted_table(start_hands: StartHands) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        hands = start_hands(NOBODY)
        table = TableWriter(hands.pid, identify(hands.pid).start_ticks)
        table.claim(hands.pid, boottime())
        path = table.save(Path(directory) / "x.trace")
        os.chown(path, NOBODY, NOBODY)
        hands.do(f"take {path}")
        path.unlink()
        said = look(NOBODY, hands.pid)
        assert said.startswith(NotTraced.__name__)
        assert "removed" in said and "root" in said


@contextlib.contextmanager
def churning(code: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


CHILDREN = """
import os, signal, sys, time
from amidiag.target.tracer import install
tracer = install()
assert tracer.error is None, tracer.error
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
turn = 0
while True:
    turn += 1
    if os.fork() == 0:
        ends = [os.pipe() for _ in range(5)]
        time.sleep(turn % 16 / 100)
        os._exit(0)
    time.sleep(0.004)
"""


@pytest.mark.timeout(120)
def test_children_that_come_and_go_meanwhile(runtime: Path) -> None:
    # GIVEN a traced program whose children make pipes and end, all the time
    with churning(CHILDREN) as process:
        seen = 0
        for _ in range(60):
            reading = read_trace(process.pid, tree=True)
            assert reading.opened and reading.processes[0].pid == process.pid
            for opened in reading.opened:
                if opened.type == "pipe" and opened.pid != process.pid and opened.made:
                    # THEN what they made is theirs, at the line that makes it
                    assert (opened.made.stack[0].file, opened.made.stack[0].line) == ("<string>", 12)
                    seen += 1
                if opened.type == "process" and opened.made:
                    assert (opened.made.stack[0].file, opened.made.stack[0].line) == ("<string>", 11)
    assert seen > 0


def test_processes_that_die_while_they_are_read(start_hands: StartHands) -> None:
    for delay in range(12):
        victim = subprocess.Popen(["sleep", "300"])
        killer = subprocess.Popen(
            [sys.executable, "-c", f"import os, time; time.sleep({delay / 1000}); os.kill({victim.pid}, 9)"]
        )
        try:
            while True:
                with contextlib.suppress(NotTraced):
                    read_trace(victim.pid)
        except (ProcessGone, NoPermission):
            pass  # A process that is ending may refuse, too.
        except CannotObserve as error:
            raise AssertionError(f"{type(error)}: {error}") from error
        finally:
            killer.wait()
            victim.wait()


HUNG = """
import ctypes, os, sys
from amidiag.target.tracer import install
assert install().error is None
ends = os.pipe()
print("ready", flush=True)
# In C, with the GIL held: nothing of Python runs any more.
ctypes.PyDLL(None).sleep(300)
"""


@pytest.mark.timeout(60)
def test_a_process_hung_with_the_gil_held(runtime: Path) -> None:
    with churning(HUNG) as process:
        time.sleep(0.05)
        reading = read_trace(process.pid)
        made = [o.made for o in reading.opened if o.made]
        assert [(m.kind, m.stack[0].line) for m in made] == [("pipe", 5), ("pipe", 5)]
        assert json.dumps(str(made[0].stack[0])) == '"<string>:5 <module>"'
