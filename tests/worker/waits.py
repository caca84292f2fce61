"""Finds in Python source what may wait for ever: calls that block and have no limit in their arguments."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_LIMITS = frozenset(("timeout", "timeout_s"))


class Wait(NamedTuple):
    """A call without a limit: `file`, the function around it, and what is called."""

    file: str
    function: str
    call: str
    line: int

    @property
    def key(self) -> str:
        """Without the line, which changes, and for a lock without the function: its blocks are alike."""
        return (
            f"{self.file} {self.call}"
            if self.call.startswith("with ")
            else f"{self.file} {self.function} {self.call}"
        )


def waits_in(source: str, file: str) -> Iterator[Wait]:
    """All calls and `with` blocks of a module that may wait without a limit."""
    for function, node in _walk(ast.parse(source), "module"):
        if isinstance(node, ast.Call) and _is_unlimited(node):
            yield Wait(file, function, ast.unparse(node.func), node.lineno)
        elif isinstance(node, ast.With):
            for item in node.items:
                if _is_lock(item.context_expr):
                    yield Wait(file, function, f"with {ast.unparse(item.context_expr)}", node.lineno)


def waits_of(package: Path) -> list[Wait]:
    """Of every module below a directory; files are named from the directory's parent."""
    found: list[Wait] = []
    for path in sorted(package.rglob("*.py")):
        found += waits_in(path.read_text(encoding="utf-8"), str(path.relative_to(package.parent)))
    return found


def _walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield inner, child
        yield from _walk(child, inner)


def _is_unlimited(call: ast.Call) -> bool:
    limited = any(k.arg in _LIMITS for k in call.keywords)
    return not limited and _RULES.get(_name(call.func), lambda call: False)(call)


def _name(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _of(call: ast.Call) -> str:
    """What the method is called on."""
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _always(call: ast.Call) -> bool:
    return True


def _no_arguments(call: ast.Call) -> bool:
    return not call.args and not call.keywords


def _is_text(call: ast.Call) -> bool:
    value = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(value, ast.Constant | ast.JoinedStr)


def _sleep(call: ast.Call) -> bool:
    """Unless its length stands there: a number, or a constant by name."""
    (length,) = call.args
    return not (isinstance(length, ast.Constant) or (isinstance(length, ast.Name) and length.id.isupper()))


def _http(call: ast.Call) -> bool:
    return any(word in _of(call).lower() for word in ("session", "requests"))


def _get(call: ast.Call) -> bool:
    return _http(call) or _no_arguments(call)


def _fewer_than(count: int) -> Callable[[ast.Call], bool]:
    return lambda call: len(call.args) < count


def _without(*words: str) -> Callable[[ast.Call], bool]:
    return lambda call: not any(word in ast.unparse(argument) for argument in call.args for word in words)


def _of_module(*modules: str) -> Callable[[ast.Call], bool]:
    return lambda call: _of(call) in modules


def _is_lock(item: ast.expr) -> bool:
    # Of a method that gives a lock it is the method that is looked at.
    name = _name(item)
    return any(
        name.lower().endswith(word) for word in ("lock", "changed", "condition", "semaphore", "decoding")
    )


_RULES: dict[str, Callable[[ast.Call], bool]] = {
    "accept": _always,
    "acquire": _no_arguments,
    "call": _of_module("subprocess"),
    "check_call": _of_module("subprocess"),
    "check_output": _of_module("subprocess"),
    "communicate": _always,
    "connect": _always,
    "create_connection": _fewer_than(2),
    "delete": _http,
    "flock": _without("LOCK_NB", "LOCK_UN"),
    "get": _get,
    "getaddrinfo": _always,
    "input": _of_module(""),
    "join": lambda call: not call.args and not _is_text(call),
    "lockf": _without("LOCK_NB", "LOCK_UN"),
    "map": lambda call: "executor" in _of(call) or "pool" in _of(call),
    "next": lambda call: bool(call.args) and "iterator" in ast.unparse(call.args[0]),
    "pause": _of_module("signal"),
    # subprocess.Popen.poll only looks, and select.poll makes an object.
    "poll": lambda call: _no_arguments(call) and "process" not in _of(call) and _of(call) != "select",
    "post": _http,
    "put": _http,
    "read": _of_module("os"),
    "readline": _always,
    "readv": _of_module("os"),
    "recv": _always,
    "recv_bytes": _always,
    "recv_into": _always,
    "recvfrom": _always,
    "recvmsg": _always,
    "request": _http,
    "result": _no_arguments,
    "run": _of_module("subprocess"),
    "select": _fewer_than(4),
    "send": _http,
    "serve_forever": _always,
    "shutdown": lambda call: "executor" in _of(call) and "wait=False" not in ast.unparse(call),
    "sigwait": _always,
    "sigwaitinfo": _always,
    "sleep": _sleep,
    "wait": lambda call: not call.args,
    "wait_for": _fewer_than(2),
    "waitpid": _without("WNOHANG"),
}
