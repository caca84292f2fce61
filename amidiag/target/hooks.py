"""What is watched: the functions by which Python code makes descriptors, shared memory, threads and processes.

Creation only. Closing needs no hook: what is closed is not in `/proc` any more. Modules that the program
has not imported are hooked when it does. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import builtins
import io
import os
import posix
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from . import inherit
from .hook import Hook, Note, method
from .late_import import LateImports
from .trace_layout import BY_ADDRESS, BY_PROCESS, BY_THREAD, KIND

if TYPE_CHECKING:
    from .tracer import Tracer

_PIPE, _SOCKET, _MEMFD, _EVENTFD, _FILE = (KIND[n] for n in ("pipe", "socket", "memfd", "eventfd", "file"))
_TERMINAL, _SHM, _STORAGE, _RECEIVED = (KIND[n] for n in ("terminal", "shm", "storage", "received"))
_THREAD, _PROCESS, _SEMAPHORE = (KIND[n] for n in ("thread", "process", "semaphore"))
_PIDFD, _TIMERFD = KIND["pidfd"], KIND["timerfd"]

# (holder, name, hook, what was in the holder itself or _INHERITED): newest last.
_Put = tuple[Any, str, Any, Any]
_INHERITED = object()


class _Installed:
    """What is in place now."""

    put: list[_Put] = []  # noqa: RUF012 - there is one set of hooks in a process
    late: LateImports | None = None


def install(tracer: Tracer) -> None:
    """Put every hook in place, or arrange for it."""
    hooks = _Hooks(tracer)
    hooks.builtins()
    _Installed.late = LateImports(hooks.by_module())
    _Installed.late.begin()


def uninstall() -> None:
    """Take the hooks out where they still stand. Who has kept one calls the original through it."""
    if _Installed.late is not None:
        _Installed.late.end()
        _Installed.late = None
    while _Installed.put:
        holder, name, hook, before = _Installed.put.pop()
        if vars(holder).get(name) is not hook:
            continue
        if before is _INHERITED:
            delattr(holder, name)
        else:
            setattr(holder, name, before)


class _Hooks:
    """All hooks for one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def builtins(self) -> None:
        """What is there from the start."""
        self._put(os, "pipe", self._pipe)
        self._put(os, "pipe2", self._pipe)
        self._put(os, "memfd_create", self._fd(_MEMFD))
        self._put(os, "eventfd", self._eventfd)
        self._put(os, "pidfd_open", self._event(_PIDFD))
        self._put(os, "timerfd_create", self._event(_TIMERFD))
        self._put(os, "openpty", self._terminals)
        self._put(os, "posix_openpt", self._terminal)
        self._put(os, "forkpty", self._forked_terminal)
        self._put(os, "open", self._opened)
        self._put(io, "open", self._file)
        # One object in both places, as it was.
        self._set(builtins, "open", io.open)
        self._put(os, "posix_spawn", self._child, _third_mapping)
        self._put(os, "posix_spawnp", self._child, _third_mapping)
        self._put(os, "execve", _nothing, _third_mapping)

    def by_module(self) -> dict[str, Callable[[ModuleType], None]]:
        """What to do when a module is there."""
        return {
            "socket": self._in_socket,
            "threading": self._in_threading,
            "_posixsubprocess": self._in_subprocess,
            "subprocess": self._in_subprocess,
            "_posixshmem": lambda module: self._put(module, "shm_open", self._fd(_SHM)),
            "multiprocessing.reduction": lambda module: self._wrap(module, "recvfds", self._received),
            "multiprocessing.synchronize": self._in_synchronize,
            "torch.storage": self._in_torch,
        }

    def _put(self, holder: Any, name: str, note: Note, prepare: Any = None) -> None:
        """A hook in the place of a built-in function, if there is one of this name."""
        original = getattr(holder, name, None)
        if original is not None and type(original) is not Hook:
            module = "builtins" if holder is io else holder.__name__
            self._set(holder, name, Hook(original, module, note, self._tracer, prepare))

    def _wrap(self, holder: Any, name: str, note: Note) -> None:
        """A hook in the place of a function written in Python."""
        original = getattr(holder, name, None)
        if original is not None:
            self._set(holder, name, method(original, note, self._tracer))

    @staticmethod
    def _set(holder: Any, name: str, hook: Any) -> None:
        _Installed.put.append((holder, name, hook, vars(holder).get(name, _INHERITED)))
        setattr(holder, name, hook)

    def _fd(self, kind: int) -> Note:
        return lambda fd, _, frame: self._tracer.note_fd(kind, fd, frame)

    def _event(self, kind: int) -> Note:
        return lambda fd, _, frame: self._tracer.note_event(kind, fd, frame)

    def _pipe(self, ends: tuple[int, int], _: tuple[Any, ...], frame: FrameType) -> None:
        # Both ends have one inode.
        self._tracer.note_fd(_PIPE, ends[0], frame)

    def _eventfd(self, fd: int, _: tuple[Any, ...], frame: FrameType) -> None:
        self._tracer.note_event(_EVENTFD, fd, frame, _eventfd_id(fd) + 1)

    def _terminals(self, ends: tuple[int, int], _: tuple[Any, ...], frame: FrameType) -> None:
        for fd in ends:
            self._tracer.note_opened(_TERMINAL, _SHM, fd, frame)

    def _terminal(self, fd: int, _: tuple[Any, ...], frame: FrameType) -> None:
        self._tracer.note_opened(_TERMINAL, _SHM, fd, frame)

    def _forked_terminal(self, result: tuple[int, int], _: tuple[Any, ...], frame: FrameType) -> None:
        pid, fd = result
        if pid:
            self._tracer.note_opened(_TERMINAL, _SHM, fd, frame)

    def _opened(self, fd: int, _: tuple[Any, ...], frame: FrameType) -> None:
        self._tracer.note_opened(_FILE, _SHM, fd, frame)

    def _file(self, file: Any, args: tuple[Any, ...], frame: FrameType) -> None:
        # Around a descriptor it makes nothing: that was made elsewhere.
        if not (args and isinstance(args[0], int)):
            self._tracer.note_opened(_FILE, _SHM, file.fileno(), frame)

    def _child(self, pid: int, _: tuple[Any, ...], frame: FrameType) -> None:
        self._tracer.note_number(_PROCESS, BY_PROCESS, pid, frame)

    def _received(self, fds: Any, _: tuple[Any, ...], frame: FrameType) -> None:
        for fd in fds:
            self._tracer.note_received(_RECEIVED, fd, frame)

    def _in_socket(self, module: ModuleType) -> None:
        self._wrap(module.socket, "__init__", self._socket)
        self._wrap(module, "recv_fds", lambda result, args, frame: self._received(result[1], args, frame))

    def _socket(self, _: None, args: tuple[Any, ...], frame: FrameType) -> None:
        import _socket

        fd = _socket.socket.fileno(args[0])
        if fd >= 0:
            self._tracer.note_fd(_SOCKET, fd, frame, first_wins=True)

    def _in_threading(self, module: ModuleType) -> None:
        self._wrap(module.Thread, "start", self._thread)

    def _thread(self, _: None, args: tuple[Any, ...], frame: FrameType) -> None:
        # It may have ended already, and then has no number of interest; known since `start` waited for it.
        number = getattr(args[0], "_native_id", None)
        if number is not None:
            self._tracer.note_number(_THREAD, BY_THREAD, number, frame)

    def _in_subprocess(self, module: ModuleType) -> None:
        for name in ("fork_exec", "_fork_exec"):
            self._put(module, name, self._child, _sixth_list)

    def _in_synchronize(self, module: ModuleType) -> None:
        self._wrap(module.SemLock, "__init__", self._semaphore)
        self._wrap(module.SemLock, "__setstate__", self._semaphore)

    def _semaphore(self, _: None, args: tuple[Any, ...], frame: FrameType) -> None:
        self._tracer.note_number(_SEMAPHORE, BY_ADDRESS, args[0]._semlock.handle, frame)

    def _in_torch(self, module: ModuleType) -> None:
        storage = module.UntypedStorage
        share_fd, share_name = storage._share_fd_cpu_, storage._share_filename_cpu_

        def shared(result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
            self._tracer.note_fd(_STORAGE, result[0], frame, first_wins=True)

        def named(result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
            self._tracer.note_path(_STORAGE, "/dev/shm" + os.fsdecode(result[1]), frame)

        def made(result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
            # Of a storage that is shared already this changes nothing, it tells.
            shared(share_fd(result), args, frame)

        def made_named(result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
            named(share_name(result), args, frame)

        def rebuilt(result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
            self._tracer.note_fd(_STORAGE, args[0], frame, first_wins=True)

        def rebuilt_named(result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
            named((None, args[1]), args, frame)

        self._wrap(storage, "_share_fd_cpu_", shared)
        self._wrap(storage, "_share_filename_cpu_", named)
        for name, note in (
            ("_new_using_fd_cpu", made),
            ("_new_using_filename_cpu", made_named),
            ("_new_shared_fd_cpu", rebuilt),
            ("_new_shared_filename_cpu", rebuilt_named),
        ):
            self._put_static(storage, name, note)

    def _put_static(self, holder: type, name: str, note: Note) -> None:
        """A hook in the place of a static or class method: both are called without an instance."""
        original = getattr(holder, name, None)
        if original is not None:
            self._set(holder, name, staticmethod(method(original, note, self._tracer)))


def _nothing(result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
    """Nothing is made."""


def _third_mapping(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args[:2], inherit.child_mapping(args[2]), *args[3:]) if len(args) > 2 else args


def _sixth_list(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args[:5], inherit.child_list(args[5]), *args[6:]) if len(args) > 5 else args


def _eventfd_id(fd: int) -> int:
    """The kernel's number of an eventfd (proc_pid_fdinfo(5)), -1 where it cannot be read."""
    try:
        info = posix.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        _, found, rest = posix.read(info, 512).partition(b"eventfd-id:")
        return int(rest.split(None, 1)[0]) if found else -1
    finally:
        posix.close(info)
