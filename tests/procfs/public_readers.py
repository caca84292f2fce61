"""Every public reader of `amidiag.procfs`, found by its signature, so that a new one is tried without being named.

A reader is a public function that takes a process: a PID, an identity, a state or what was read of its FDs. Left
out are those that by their docstring raise OSError: they are parts of others, which say what that means.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amidiag import procfs
from amidiag.procfs.errors import CannotObserve, gone
from amidiag.procfs.fd_listing import list_all
from amidiag.procfs.fds import scan
from amidiag.procfs.identity import identify
from amidiag.procfs.open_files import list_fds
from amidiag.procfs.peers import holders_of
from amidiag.procfs.processes import read_stat, snapshot
from amidiag.procfs.select import ami_workers, by_name
from amidiag.procfs.shm_orphans import find_orphans
from amidiag.procfs.shm_users import find_users
from amidiag.procfs.sysv import read_sysv

Reader = Callable[[Sequence[int]], object]
"""What reads the processes of these PIDs, one or several."""

# By annotation: what is passed that stands for a process,
_ONE: dict[str, Callable[[int], object]] = {
    "FdListing": list_all,
    "FdScan": scan,
    "Identity": identify,
    "Identity | None": identify,
    "ProcStat": read_stat,
    "int | Identity": lambda pid: pid,
}
# and for several.
_EACH: dict[str, Callable[[int], object]] = {
    "Iterable[FdScan]": scan,
    "Iterable[Identity]": identify,
    "Iterable[int]": lambda pid: pid,
    "Sequence[FdScan]": scan,
    "Sequence[Identity]": identify,
    "Sequence[ProcStat]": read_stat,
    "Sequence[Sequence[FdListing]]": lambda pid: [list_all(pid)],
    "Sequence[Sequence[FdScan]]": lambda pid: [scan(pid)],
    "Sequence[tuple[Identity, str]]": lambda pid: (identify(pid), read_stat(pid).name),
}
# By name: what else is passed where there is no default.
_OTHER: dict[str, Reader] = {
    "cmdlines": lambda pids: dict.fromkeys(pids, ("python", "x.py")),
    "fd": lambda _: "0",
    "fds": lambda _: ["0", "1", "2"],
    "file": lambda _: "status",
    "held": lambda pids: list_fds(pids[0]),
    "holders": lambda pids: holders_of([[scan(pid)] for pid in pids]),
    "pipes": lambda pids: list_all(pids[0]).lone,
    "scanner": lambda _: scan,
    "sees_all": lambda _: True,
    "stats": lambda _: snapshot(),
    "tid": lambda pids: pids[0],
    "wanted": lambda pids: {file.inode for file in list_fds(pids[0]) if file.type == "socket"},
    "what": lambda _: "the status",
    "with_shm": lambda _: True,
}
# What is left out for one process, as it looks at the whole machine: those of _EACH try that.
_WITHOUT = {"observe.observe_tree": {"peers": False}}
# No readers, though a process is among what they take: words, and what has been read already.
_NO_READERS = {"errors", "fd_mark", "holders"}
# Parts of other readers, which explain their errors.
_PARTS = {"fds.open_directory"}
_PARSERS = ("bytes", "str")

OF_THE_MACHINE: dict[str, Callable[[], object]] = {
    "processes.snapshot": snapshot,
    "select.ami_workers": ami_workers,
    "select.by_name": lambda: by_name("python|sleep"),
    "shm_orphans.find_orphans": lambda: find_orphans(None, sysv=True),
    "shm_users.find_users": lambda: find_users({}),
    "sysv.read_sysv": read_sysv,
}


@dataclass
class Catalogue:
    """The readers by `module.function`: of one process, of several, and those that take what is not known here."""

    of_one: dict[str, Reader] = field(default_factory=dict)
    of_several: dict[str, Reader] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def catalogue() -> Catalogue:
    """Look through the whole room."""
    found = Catalogue()
    for title, function in _functions():
        parameters = inspect.signature(function).parameters.values()
        required = [parameter for parameter in parameters if parameter.default is parameter.empty]
        annotations = {parameter.annotation for parameter in required}
        several = not annotations.isdisjoint(_EACH)
        if not (several or any(_is_process(parameter) for parameter in required)):
            continue
        if required[-1].annotation in _PARSERS and required[-1].name not in _OTHER:
            continue  # It is given the text that was read.
        if all(map(_way, required)):
            into = found.of_several if several else found.of_one
            into[title] = _caller(function, required, _WITHOUT.get(title, {}))
        else:
            found.unknown.append(title)
    return found


def _functions() -> Iterator[tuple[str, Callable[..., object]]]:
    for module in pkgutil.iter_modules(procfs.__path__):
        if module.name in _NO_READERS:
            continue
        code = importlib.import_module(f"{procfs.__name__}.{module.name}")
        for name, function in vars(code).items():
            title = f"{module.name}.{name}"
            own = inspect.isfunction(function) and function.__module__ == code.__name__
            if own and name[0] != "_" and title not in _PARTS and "OSError" not in (function.__doc__ or ""):
                yield title, function


def _is_process(parameter: inspect.Parameter) -> bool:
    return parameter.annotation in _ONE or (parameter.name, parameter.annotation) == ("pid", "int")


def _way(parameter: inspect.Parameter) -> Reader | None:
    """What makes the argument of some PIDs."""
    if parameter.name == "pid":
        return lambda pids: pids[0]
    if (one := _ONE.get(parameter.annotation)) is not None:
        return lambda pids: one(pids[0])
    if (each := _EACH.get(parameter.annotation)) is not None:
        return lambda pids: _of_each(each, pids)
    return _OTHER.get(parameter.name)


def _of_each(make: Callable[[int], object], pids: Sequence[int]) -> list[object]:
    made = []
    for pid in pids:
        with contextlib.suppress(CannotObserve):  # Ended, or not for this user.
            made.append(make(pid))
    if not made:
        raise gone(pids[0])
    return made


def _caller(
    function: Callable[..., object], required: Sequence[inspect.Parameter], extra: Mapping[str, object]
) -> Reader:
    ways: dict[str, Any] = {parameter.name: _way(parameter) for parameter in required}
    by_name = {parameter.name for parameter in required if parameter.kind is parameter.KEYWORD_ONLY}

    def call(pids: Sequence[int]) -> object:
        values = {name: way(pids) for name, way in ways.items()}
        named = {name: values.pop(name) for name in by_name}
        return _finish(function(*values.values(), **named, **extra))

    return call


def _finish(result: object) -> object:
    """What is read only while it is iterated or entered is read."""
    if isinstance(result, contextlib.AbstractContextManager):
        with result:
            return None
    return list(result) if isinstance(result, Iterator) else result


def failure(reader: Callable[[], object], pid: int | None = None) -> str | None:
    """None where it answered or said why it cannot, of process `pid`; else the error that nobody meant."""
    try:
        reader()
    except CannotObserve as error:
        fits = pid is None or (error.pid == pid and str(pid) in error.text)
        return None if fits else f"not of this process: {error.pid}, {error.text}"
    except Exception as error:  # noqa: BLE001 - the point of it: any other error is a defect
        return f"{type(error).__name__}: {error}"
    return None


def failures(found: Catalogue, pids: Sequence[int]) -> dict[str, str]:
    """What went wrong with these processes, by reader and PID; readers of several are given all at once."""
    tried = {
        f"{title}({pid})": failure(lambda: read([pid]), pid)  # noqa: B023
        for pid in pids
        for title, read in found.of_one.items()
    }
    tried |= {title: failure(lambda: read(pids)) for title, read in found.of_several.items()}  # noqa: B023
    return {title: error for title, error in tried.items() if error is not None}
