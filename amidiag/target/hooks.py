"""What is watched: the functions by which Python code makes descriptors, shared memory, threads and processes.

Creation only. Closing needs no hook: what is closed is not in `/proc` any more. Modules that the program
has not imported are hooked when it does. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import builtins
import io
import os
import posix
import sys

from . import inherit, notes, torch_notes
from .hook import Hook, PreparingHook, method
from .in_place import caller_as
from .late_import import LateImports
from .trace_layout import KIND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType
    from typing import Any

    from .hook import Call, Note, Prepare
    from .tracer import Tracer

    # (holder, name, hook, what was in the holder itself or _INHERITED): newest last.
    Put = tuple[Any, str, Any, Any]

_INHERITED = object()


class _Installed:
    """What is in place now."""

    put: list[Put] = []  # noqa: RUF012 - there is one set of hooks in a process
    late: LateImports | None = None


def install(tracer: Tracer) -> None:
    """Put every hook in place, or arrange for it."""
    hooks = _Hooks(tracer)
    hooks.builtins()
    _Installed.late = LateImports(hooks.by_module(), tracer.guarded)
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


def installed() -> list[tuple[str, str]]:
    """(module or class, name) of every hook that is in place."""
    return [(holder.__name__, name) for holder, name, _, _ in _Installed.put]


class _Hooks:
    """All hooks for one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def builtins(self) -> None:
        """What is there from the start."""
        for name, note in (
            ("pipe", notes.pipe),
            ("pipe2", notes.pipe),
            ("memfd_create", notes.memfd),
            ("eventfd", notes.anonymous(KIND["eventfd"])),
            ("pidfd_open", notes.anonymous(KIND["pidfd"])),
            ("timerfd_create", notes.anonymous(KIND["timerfd"])),
            ("openpty", notes.terminals),
            ("posix_openpt", notes.terminal),
            ("open", notes.opened),
        ):
            self._put_os(name, note)
        # Of a process with threads it warns.
        self._put_os("forkpty", notes.forked_terminal, _in_place)
        self._put_os("posix_spawn", notes.child, inherit.third_mapping)
        self._put_os("posix_spawnp", notes.child, inherit.third_mapping)
        self._put_os("execve", None, inherit.third_mapping)
        self._put_os("putenv", None, inherit.put_variable)
        self._put_os("unsetenv", None, inherit.unset_variable)
        # One object in both places, as it was.
        self._put((io, builtins), "open", notes.file, _where_it_warns)

    def by_module(self) -> dict[str, Callable[[ModuleType], None]]:
        """What to do when a module is there."""
        return {
            "socket": self._in_socket,
            "threading": lambda module: self._wrap(module.Thread, "start", notes.thread),
            "_posixsubprocess": self._in_subprocess,
            "subprocess": self._in_subprocess,
            "_posixshmem": lambda module: self._put((module,), "shm_open", notes.shm),
            "multiprocessing.reduction": lambda module: self._wrap(module, "recvfds", notes.received),
            "multiprocessing.synchronize": self._in_synchronize,
            "torch.storage": self._in_torch,
        }

    def _put_os(self, name: str, note: Note | None, prepare: Prepare | None = None) -> None:
        # One object in both places, as it was: it is pickled as posix.pipe.
        self._put((os, posix), name, note, prepare)

    def _put(
        self, holders: tuple[Any, ...], name: str, note: Note | None, prepare: Prepare | None = None
    ) -> None:
        """A hook in the place of a built-in function, if there is one of this name."""
        original = getattr(holders[0], name, None)
        if original is None or isinstance(original, Hook):
            return
        known = (hook for _, _, hook, _ in _Installed.put if getattr(hook, "__wrapped__", None) is original)
        hook = next(known, None)
        if hook is None:
            hook = (
                Hook(original, self._tracer, note)
                if prepare is None
                else PreparingHook(original, self._tracer, note, prepare)
            )
        for holder in holders:
            if vars(holder).get(name) is original:
                self._set(holder, name, hook)

    def _wrap(self, holder: Any, name: str, note: Note) -> None:
        """A hook in the place of a function written in Python."""
        original = getattr(holder, name, None)
        if original is not None:
            self._set(holder, name, method(original, self._tracer, note))

    @staticmethod
    def _set(holder: Any, name: str, hook: Any) -> None:
        _Installed.put.append((holder, name, hook, vars(holder).get(name, _INHERITED)))
        setattr(holder, name, hook)

    def _in_socket(self, module: ModuleType) -> None:
        file = module.socketpair.__code__.co_filename
        self._wrap(module.socket, "__init__", notes.socket(module._socket.socket.fileno, file))
        self._wrap(module, "recv_fds", notes.received_with_data)

    def _in_subprocess(self, module: ModuleType) -> None:
        for name in ("fork_exec", "_fork_exec"):
            self._put((module,), name, notes.child, _with_environment)

    def _in_synchronize(self, module: ModuleType) -> None:
        self._wrap(module.SemLock, "__init__", notes.semaphore)
        self._wrap(module.SemLock, "__setstate__", notes.semaphore)

    def _in_torch(self, module: ModuleType) -> None:
        storage = module.UntypedStorage
        for name, (note, static) in torch_notes.notes(storage).items():
            if not static:
                self._wrap(storage, name, note)
            elif hasattr(storage, name):
                # Called without an instance, as the static or class method was.
                hooked = method(getattr(storage, name), self._tracer, note)
                self._set(storage, name, staticmethod(hooked))


def _in_place(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Call:
    """From the caller's own line, for the sake of warnings."""
    return caller_as(frame), (function, args, kwargs), {}


def _where_it_warns(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Call:
    """`open` warns of line buffering in binary mode, of a bool as descriptor, of a missing encoding."""
    unusual = len(args) > 2 or "buffering" in kwargs or (args and type(args[0]) is bool)
    if unusual or sys.flags.warn_default_encoding:
        return _in_place(function, args, kwargs, frame)
    return function, args, kwargs


def _with_environment(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Call:
    """`fork_exec`: its environment is the sixth argument; of a process with threads it may warn."""
    return _in_place(function, inherit.sixth_list(args), kwargs, frame)
