"""Every hook that there is notes what comes out of it, with the line that has called."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from trace_programs import Programs, lines

# By (holder, name) of a hook: what calls it on the line that is marked, and the kind that is noted then; None
# where a hook only prepares something for children.
EXERCISES: dict[tuple[str, str], tuple[str, str | None]] = {
    ("os", "pipe"): ("os.pipe()", "pipe"),
    ("posix", "pipe"): ("__import__('posix').pipe()", "pipe"),
    ("os", "pipe2"): ("os.pipe2(0)", "pipe"),
    ("posix", "pipe2"): ("__import__('posix').pipe2(0)", "pipe"),
    ("os", "memfd_create"): ("os.memfd_create('x')", "memfd"),
    ("posix", "memfd_create"): ("__import__('posix').memfd_create('x')", "memfd"),
    ("os", "eventfd"): ("os.eventfd(0)", "eventfd"),
    ("posix", "eventfd"): ("__import__('posix').eventfd(0)", "eventfd"),
    ("os", "pidfd_open"): ("os.pidfd_open(os.getpid())", "pidfd"),
    ("posix", "pidfd_open"): ("__import__('posix').pidfd_open(os.getpid())", "pidfd"),
    ("os", "timerfd_create"): ("os.timerfd_create(1)", "timerfd"),
    ("posix", "timerfd_create"): ("__import__('posix').timerfd_create(1)", "timerfd"),
    ("os", "openpty"): ("os.openpty()", "terminal"),
    ("posix", "openpty"): ("__import__('posix').openpty()", "terminal"),
    ("os", "posix_openpt"): ("os.posix_openpt(os.O_RDWR)", "terminal"),
    ("posix", "posix_openpt"): ("__import__('posix').posix_openpt(os.O_RDWR)", "terminal"),
    ("os", "open"): ("os.open('/dev/null', 0)", "file"),
    ("posix", "open"): ("__import__('posix').open('/dev/null', 0)", "file"),
    ("os", "forkpty"): ("os.forkpty()[0] or os._exit(0)", "terminal"),
    ("posix", "forkpty"): ("__import__('posix').forkpty()[0] or os._exit(0)", "terminal"),
    ("os", "posix_spawn"): ("os.posix_spawn('/bin/sleep', ['sleep', '60'], os.environ)", "process"),
    ("posix", "posix_spawn"): (
        "__import__('posix').posix_spawn('/bin/sleep', ['sleep', '60'], {})",
        "process",
    ),
    ("os", "posix_spawnp"): ("os.posix_spawnp('sleep', ['sleep', '60'], os.environ)", "process"),
    ("posix", "posix_spawnp"): ("__import__('posix').posix_spawnp('sleep', ['sleep', '60'], {})", "process"),
    ("os", "execve"): ("os.fork() or os.execve('/bin/true', ['true'], {})", None),
    ("posix", "execve"): ("os.fork() or __import__('posix').execve('/bin/true', ['true'], {})", None),
    ("os", "putenv"): ("os.environ.update(PYTHONPATH='/x')", None),
    ("posix", "putenv"): ("__import__('posix').putenv('PYTHONPATH', '/x')", None),
    ("os", "unsetenv"): ("os.unsetenv('PYTHONPATH')", None),
    ("posix", "unsetenv"): ("__import__('posix').unsetenv('PYTHONPATH')", None),
    ("io", "open"): ("__import__('io').open('/dev/null')", "file"),
    ("builtins", "open"): ("open('/dev/null')", "file"),
    ("socket", "__init__"): ("__import__('socket').socket()", "socket"),
    ("socket", "recv_fds"): ("receive(__import__('socket').recv_fds)", "received"),
    ("Thread", "start"): ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "thread"),
    ("_posixsubprocess", "fork_exec"): (
        "__import__('multiprocessing.util').util.spawnv_passfds(b'/bin/sleep', [b'sleep', b'60'], [])",
        "process",
    ),
    ("subprocess", "_fork_exec"): ("subprocess.Popen(['sleep', '60'])", "process"),
    ("_posixshmem", "shm_open"): (
        "__import__('_posixshmem').shm_open(NAME, os.O_CREAT | os.O_RDWR, mode=0o600)",
        "shm",
    ),
    ("multiprocessing.reduction", "recvfds"): (
        "receive(lambda s, size, n: __import__('multiprocessing.reduction').reduction.recvfds(s, n))",
        "received",
    ),
    ("SemLock", "__init__"): ("__import__('multiprocessing').Lock()", "semaphore"),
    ("SemLock", "__setstate__"): ("set_state(__import__('multiprocessing').Lock())", "semaphore"),
    ("UntypedStorage", "_share_fd_cpu_"): ("torch.zeros(9).untyped_storage()._share_fd_cpu_()", "storage"),
    ("UntypedStorage", "_share_filename_cpu_"): (
        "torch.zeros(9).untyped_storage()._share_filename_cpu_()",
        "storage",
    ),
    ("UntypedStorage", "_new_using_fd_cpu"): ("torch.UntypedStorage._new_using_fd_cpu(64)", "storage"),
    ("UntypedStorage", "_new_using_filename_cpu"): (
        "torch.UntypedStorage._new_using_filename_cpu(64)",
        "storage",
    ),
    ("UntypedStorage", "_new_shared_fd_cpu"): (
        "torch.UntypedStorage._new_shared_fd_cpu(segment(), 4096)",
        "storage",
    ),
    ("UntypedStorage", "_new_shared_filename_cpu"): ("rebuild_by_name()", "storage"),
}
NEW_IN_3_13 = {(module, name) for module in ("os", "posix") for name in ("timerfd_create", "posix_openpt")}
SOME_VERSIONS = NEW_IN_3_13 | {("subprocess", "_fork_exec")}
TORCH = "UntypedStorage"

PROGRAM = """
import array, ctypes, json, os, sys, threading, subprocess
NAME = "/amidiag-test-%d" % os.getpid()
def receive(function):
    import socket
    a, b = socket.socketpair()
    unseen = ctypes.CDLL(None).open(b"/dev/null", 0)
    socket.send_fds(a, [b"\\x01"], [unseen])
    kept.append(function(b, 10, 1))  # marked
    return kept[-1]
def set_state(lock):
    # As it comes to a child that is spawned.
    name = lock._semlock.name
    ctypes.CDLL(None).sem_open(name.encode(), os.O_CREAT, 0o600, 1) if name else None
    state = lock._semlock.handle, lock._semlock.kind, lock._semlock.maxvalue, name
    again = object.__new__(type(lock))
    again.__setstate__(state)  # marked
    return lock, again
def segment():
    fd = ctypes.CDLL(None).memfd_create(b"unseen", 0)
    os.ftruncate(fd, 4096)
    return fd
def rebuild_by_name():
    storage = torch.zeros(9).untyped_storage()
    manager, handle, size = type(storage)._share_filename_cpu_.__wrapped__(storage)
    return storage, torch.UntypedStorage._new_shared_filename_cpu(manager, handle, size)  # marked
kept = []
IMPORT
for line in sys.stdin:
    kept.append(eval(compile("\\n" * 999 + line, __file__, "eval")))
    print("1", flush=True)
"""


def start(programs: Programs, *, torch: bool) -> Any:
    code = PROGRAM.replace("IMPORT", "import torch" if torch else "pass")
    return programs.start(code)


def do(program: Any, statement: str) -> None:
    program.process.stdin.write(statement + "\n")
    program.process.stdin.flush()
    assert program.said() == 1


HOOKS = """
import json, os, socket, subprocess, sys, threading, _posixsubprocess, _posixshmem
import multiprocessing.reduction, multiprocessing.synchronize
IMPORT
from _amidiag_target import hooks
print(json.dumps(hooks.installed()))
"""


@pytest.mark.parametrize("torch", [False, True], ids=("plain", "torch"))
def test_there_is_an_exercise_for_every_hook(programs: Programs, torch: bool) -> None:
    """A new hook without one fails here."""
    if torch:
        pytest.importorskip("torch")
    done = programs.run(HOOKS.replace("IMPORT", "import torch" if torch else ""))
    assert done.returncode == 0, done.stderr
    installed = {(holder, name) for holder, name in json.loads(done.stdout)}
    expected = {hook for hook in EXERCISES if torch or hook[0] != TORCH}
    assert installed - expected == set()
    assert expected - installed <= SOME_VERSIONS


def _check(programs: Programs, hooks: list[tuple[str, str]], *, torch: bool) -> None:
    program = start(programs, torch=torch)
    marked = {i for i, line in enumerate(PROGRAM.splitlines(), start=1) if line.endswith("# marked")}
    seen: set[tuple[int, ...]] = set()
    for hook in hooks:
        statement, kind = EXERCISES[hook]
        do(program, statement)
        fresh = [one for one in program.made() if (one.boottime_ns, one.inode, one.fd) not in seen]
        seen |= {(one.boottime_ns, one.inode, one.fd) for one in fresh}
        if kind is not None:
            found = [one for one in fresh if one.kind == kind]
            assert found, f"{hook} has noted nothing: {[(one.kind, one.stack[:1]) for one in fresh]}"
            assert set(lines(found)) & (marked | {1000}), (hook, found)
    assert program.region().errors == 0


def test_every_hook_notes(every_python: Programs) -> None:
    """GIVEN each function that is watched WHEN it is called THEN there is a new record with that line."""
    has = json.loads(every_python.run(HOOKS.replace("IMPORT", "")).stdout)
    _check(every_python, [hook for hook in EXERCISES if list(hook) in has], torch=False)


def test_every_hook_of_torch_notes(programs: Programs) -> None:
    pytest.importorskip("torch")
    _check(programs, [hook for hook in EXERCISES if hook[0] == TORCH], torch=True)


def test_the_programs_here_are_read(programs: Programs) -> None:
    """A mark that moves would let the tests above pass for the wrong line."""
    assert inspect.cleandoc(PROGRAM).count("# marked") == 3
