"""Signal handlers, finalizers, other threads' exceptions and failing allocations come in the middle of a hook."""

from __future__ import annotations

import pytest
from trace_programs import Programs, lines

# A handler that raises at any moment: in the program itself it would come through each time.
SIGNALS = """
import json, os, random, signal, socket, sys, threading
class Rang(Exception): pass
SORTS = [FileExistsError, KeyError, IndexError, TimeoutError, PermissionError, ProcessLookupError, ValueError]
rung = caught = 0
def ring(*_):
    global rung
    rung += 1
    HOW
signal.signal(signal.SIGALRM, ring)
def make_anew(number):
    # A line that was not seen before: the slow way, with a call site to be added.
    names = {"os": os}
    exec(compile("\\n" * number + "def make(): return os.pipe(), os.open('/dev/null', 0)", __file__, "exec"), names)
    return names["make"]()
number = 0
while rung < 600:
    number += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4))
        while True:
            make_anew(number % 1500)
            socket.socket().close()
            if number % 50 == 0:
                os.closerange(20, 4096)
            number += 1
    except (Rang, KeyboardInterrupt, *SORTS):
        caught += 1
signal.setitimer(signal.ITIMER_REAL, 0)
os.closerange(20, 4096)
held = os.pipe()
print(json.dumps([rung - caught, os.fstat(held[0]).st_ino]), flush=True)
input()
"""


HANDLERS = {
    "own": "raise Rang",
    "of_os": "os.makedirs('/dev')",
    "interrupt": "signal.default_int_handler(2, None)",
    # Of the sorts that our own code expects of the kernel and of its tables.
    "any": "raise random.choice(SORTS)('of the handler')",
}


@pytest.mark.parametrize("how", HANDLERS)
def test_what_a_signal_handler_raises_reaches_the_program(every_python: Programs, how: str) -> None:
    """GIVEN a handler that raises, in the middle of hooks too THEN no exception is lost, and tracing goes on."""
    program = every_python.start(SIGNALS.replace("HOW", HANDLERS[how]))
    lost, inode = program.said()
    assert lost == 0
    made = [one for one in program.made() if one.inode == inode]
    assert lines(made, "pipe") == [SIGNALS.splitlines().index("held = os.pipe()") + 1]
    assert program.region().errors == 0


THREADS = """
import ctypes, json, os, threading, time
class Stop(Exception): pass
caught = 0
ready = threading.Event()
def work():
    global caught
    while True:
        try:
            while True:
                ready.set()
                for fd in os.pipe():
                    os.close(fd)
        except Stop:
            caught += 1
            if caught == 300:
                return
thread = threading.Thread(target=work)
thread.start()
ready.wait()
sent = last = 0
while thread.is_alive():
    if caught == last or time.monotonic() > until:
        last, sent, until = caught + 1, sent + 1, time.monotonic() + 0.3
        ready.clear()
        ready.wait(0.3)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stop))
    time.sleep(0.0003)
print(json.dumps([sent, caught]), flush=True)
input()
"""


def test_what_another_thread_raises_reaches_the_program(every_python: Programs) -> None:
    """GIVEN exceptions raised into a thread that makes things all the time THEN they come through. Python itself
    loses one now and then; where hooks swallowed theirs, every third would be sent once more."""
    program = every_python.start(THREADS)
    sent, caught = program.said()
    assert caught == 300 and sent < 330
    assert program.region().errors == 0


FINALIZERS = """
import gc, json, os
class Node:
    def __init__(self):
        self.me = self
    def __del__(self):
        held.append(os.open("/dev/null", os.O_RDONLY))  # finalizer
        held.extend(os.pipe())  # finalizer
held, pipes = [], []
gc.set_threshold(7)
for number in range(400):
    Node()
    names = {"os": os}
    exec(compile("\\n" * (number % 200) + "def make(): return os.pipe()", "/made.py", "exec"), names)
    pipes.append((number % 200 + 1, os.fstat(names["make"]()[0]).st_ino))
gc.disable()
print(json.dumps([pipes, len(held)]), flush=True)
input()
"""


def test_finalizers_within_a_hook_make_things_too(every_python: Programs) -> None:
    """GIVEN a garbage collector that comes all the time WHEN finalizers open files within hooks THEN each record
    has its own line, or at least none where its line could not be added."""
    program = every_python.start(FINALIZERS)
    pipes, held = program.said()
    assert held > 300
    made = {one.inode: one for one in program.made() if one.kind == "pipe"}
    sites = [(line, lines([made[inode]], file="made.py")) for line, inode in pipes]
    assert all(found in ([], [line]) for line, found in sites)
    assert sum(found == [line] for line, found in sites) > 300
    others = [one for inode, one in made.items() if inode not in {inode for _, inode in pipes}]
    expected = [
        i for i, line in enumerate(FINALIZERS.splitlines(), start=1) if "pipe())  # finalizer" in line
    ]
    assert set(lines(others)) == set(expected)
    assert program.region().errors == 0


MEMORY = """
import _testcapi, json, os, sys
failed = made = 0
for at in range(1, 160):
    before = os.listdir("/proc/self/fd")
    ends = None
    _testcapi.set_nomemory(at, at + 1)
    try:
        ends = os.pipe()
    except MemoryError:
        ends = None
    _testcapi.remove_mem_hooks()
    if ends is None:
        failed += 1
    else:
        made += 1
        for fd in ends:
            os.close(fd)
held = os.pipe()
print(json.dumps([failed, made, os.fstat(held[0]).st_ino]), flush=True)
input()
"""


def test_where_memory_is_refused_only_that_error_comes(every_python: Programs) -> None:
    """GIVEN each allocation in turn fails THEN a pipe is made or MemoryError is raised, and tracing goes on."""
    if every_python.run("import _testcapi", traced=False).returncode:
        pytest.skip("this Python was built without _testcapi")
    program = every_python.start(MEMORY)
    _failed, made, inode = program.said()
    assert made > 100
    assert lines([one for one in program.made() if one.inode == inode])
