"""Switching on and off, in the program itself and by its environment."""

from __future__ import annotations

import os
import sys

import pytest
from trace_programs import Programs, lines

# As seen by identity: what every module and class that is ever touched holds.
HELD = """
import atexit, builtins, io, json, os, posix, sys, threading, time, socket, subprocess, _posixsubprocess, tempfile
import _io, _posixshmem, importlib, multiprocessing.reduction, multiprocessing.synchronize, multiprocessing.util
import signal
sys.path.insert(0, sys.argv[1])
from amidiag.target import hooks
from amidiag.target.tracer import install
HOLDERS = [os, posix, io, _io, builtins, sys, time, socket, threading, subprocess, _posixsubprocess, _posixshmem,
    tempfile, signal, importlib, multiprocessing.reduction, multiprocessing.synchronize, multiprocessing.util,
    socket.socket, threading.Thread, multiprocessing.synchronize.SemLock, subprocess.Popen]
def held():
    return [dict(vars(holder)) for holder in HOLDERS]
def world():
    return (dict(os.environ), list(sys.path), list(sys.meta_path), list(sys.path_hooks), set(sys.modules),
        {n: signal.getsignal(n) for n in signal.valid_signals()}, os.listdir("/proc/self/fd"), sys.flags)
def same(before, after):
    return all(a.keys() == b.keys() and all(a[name] is b[name] for name in a) for a, b in zip(before, after))
"""


def test_uninstalled_all_is_as_it_was(every_python: Programs) -> None:
    """GIVEN every module that is ever hooked WHEN tracing is switched on and off, twice THEN each attribute is the
    object that it was, and the table is gone."""
    code = (
        HELD
        + """
for turn in range(2):
    before, around = held(), world()
    tracer = install()
    assert tracer.error is None, tracer.error
    path = tracer.path
    assert os.path.exists(path) and not same(before, held())
    assert install() is tracer and tracer.path == path
    kept = open, os.pipe, socket.socket.__init__
    os.pipe()
    assert world()[0] != around[0]
    count = len(hooks.installed())
    tracer.uninstall()
    assert same(before, held()), turn
    os.closerange(3, 100)
    after = world()
    assert after[:4] == around[:4] and after[5:] == around[5:], (around, after)
    assert not os.path.exists(path) and tracer.path is None and tracer.region is None
    assert os.system("test -z \\"$PYTHONPATH$AMI_DIAG_TRACE\\"") == 0
    # Who has kept a hook calls the original through it.
    assert kept[0]("/dev/null").close() is None and len(kept[1]()) == 2
    os.closerange(3, 100)
    tracer.uninstall()
print(count)
"""
    )
    done = every_python.run(code, str(os.path.abspath(".")), traced=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 30


def test_a_hook_that_was_covered_meanwhile_steps_aside(programs: Programs) -> None:
    """WHEN tracing ends under a patch of the program's own THEN that stays, and what it uncovers passes through."""
    code = (
        HELD
        + """
from unittest import mock
before = os.pipe
tracer = install()
with mock.patch("os.pipe", return_value=(1, 2)) as patched:
    tracer.uninstall()
    assert os.pipe is patched and os.pipe() == (1, 2)
assert os.pipe == before and len(os.pipe()) == 2
tracer = install()
region = tracer.region
os.pipe()
assert region.words[5] > 0, "noted again"
tracer.uninstall()
assert os.pipe is before or os.pipe == before
with mock.patch("os.pipe", return_value=(1, 2)) as patched:
    tracer = install()
    assert os.pipe() == (1, 2)
    tracer.uninstall()
    assert os.pipe is patched
print("done")
"""
    )
    done = programs.run(code, os.path.abspath("."), traced=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    "break_it",
    [
        "os.environ['AMIDIAG_RUNTIME_DIR'] = '/proc/nothing'",
        "open('file', 'w').close(); os.environ['AMIDIAG_RUNTIME_DIR'] = os.path.abspath('file')",
        "os.mkdir('open', 0o755); os.chmod('open', 0o755); os.environ['AMIDIAG_RUNTIME_DIR'] = os.path.abspath('open')",
        "os.symlink('.', 'link'); os.environ['AMIDIAG_RUNTIME_DIR'] = os.path.abspath('link')",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))",
    ],
    ids=("no_directory", "a_file", "open_to_others", "a_link", "no_fd_left", "file_size_limit"),
)
def test_where_it_cannot_begin_it_says_why_and_changes_nothing(programs: Programs, break_it: str) -> None:
    code = (
        HELD
        + f"""
import ctypes
{break_it}
before, around = held(), dict(os.environ)
tracer = install()
assert tracer.error and tracer.region is None and tracer.path is None
assert same(before, held()) and dict(os.environ) == around
tracer.uninstall()
print(tracer.error)
"""
    )
    done = programs.run(code, os.path.abspath("."), traced=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    assert not list(programs.tables.glob("*")) if programs.tables.is_dir() else True


def test_without_children(programs: Programs) -> None:
    code = (
        HELD
        + """
tracer = install(children=False)
assert tracer.error is None
print(subprocess.check_output(["env"], text=True))
"""
    )
    done = programs.run(code, os.path.abspath("."), traced=False)
    assert done.returncode == 0, done.stderr
    assert "PYTHONPATH" not in done.stdout and "AMI_DIAG_TRACE" not in done.stdout


LATE = """
import json, os, sys
assert not {"socket", "multiprocessing", "torch", "_posixshmem"} & set(sys.modules), sys.modules.keys()
import socket
pair = socket.socketpair()  # socket
from multiprocessing import Lock, shared_memory
lock = Lock()  # lock
segment = shared_memory.SharedMemory(create=True, size=4096)  # segment
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()  # thread
print(json.dumps([fd.fileno() for fd in pair]), flush=True)
input()
segment.close()
segment.unlink()
"""


def test_modules_that_are_imported_later_are_hooked(every_python: Programs) -> None:
    """GIVEN a program that imports nothing at first THEN what its modules make later is noted."""
    program = every_python.start(LATE)
    program.said()
    found = {one.kind: lines([one]) for one in program.made()}
    marks = {
        line.rpartition("# ")[2]: i for i, line in enumerate(LATE.splitlines(), start=1) if "  # " in line
    }
    assert found["socket"] == [marks["socket"]]
    assert found["semaphore"] == [marks["lock"]]
    assert found["shm"] == [marks["segment"]]
    assert found["thread"] == [marks["thread"]]
    assert program.end() == 0


def test_a_module_of_another_kind_than_expected_is_imported_all_the_same(programs: Programs) -> None:
    """GIVEN a torch that has other storages, and a program's own `subprocess` THEN both are imported as they are."""
    package = programs.directory / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("from . import storage\n")
    (package / "storage.py").write_text("class TypedStorage: pass\n")
    (programs.directory / "subprocess.py").write_text("fork_exec = 7\n")
    code = "import torch.storage, subprocess\nprint(torch.storage.TypedStorage, subprocess.fork_exec)\n"
    done = programs.same(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_it_loads_into_every_program_is_little(programs: Programs) -> None:
    """Each module costs at every start, and a program may care which are loaded."""
    code = "import sys\nprint(*sorted(sys.modules))\n"
    bare = set(programs.run(code, traced=False, options=["-S"]).stdout.split())
    done = set(programs.run(code, options=["-X", "frozen_modules=off"]).stdout.split())
    site = set(programs.run(code, traced=False).stdout.split())
    added = {name for name in done - bare - site if not name.startswith("_amidiag")}
    heavy = {
        "typing",
        "tempfile",
        "contextlib",
        "functools",
        "collections",
        "re",
        "random",
        "threading",
        "subprocess",
    }
    assert not heavy & added
    if sys.version_info < (3, 13):
        assert "ctypes" in added  # See mapping.py.
