"""One function in the place of another, as like it as can be, that says what came out of it.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from sys import _getframe
from types import FrameType
from typing import Any

Note = Callable[[Any, "tuple[Any, ...]", FrameType], None]
"""What to do with (result, arguments, caller's frame). It never raises what is its own."""


class Hook:
    """Stands for a built-in function.

    No Python function: as a class attribute that would become a method. It equals the original, hashes
    like it (`os.open in os.supports_dir_fd`), passes for its type, and is pickled by its name.
    """

    def __init__(
        self,
        original: Callable[..., Any],
        module: str,
        note: Note,
        failed: Callable[[BaseException], None],
        prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None,
    ) -> None:
        """`prepare` may change the arguments; `failed` is told of what the original raises."""
        self._original = original
        self._note = note
        self._failed = failed
        self._prepare = prepare
        self.__module__ = module

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if self._prepare is not None:
            args = self._prepare(args)
        try:
            result = self._original(*args, **kwargs)
        except BaseException as error:
            self._failed(error)
            without_this_frame(error)
            raise
        self._note(result, args, _getframe(1))
        return result

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return self._original

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._original)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._original.__doc__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __eq__(self, other: object) -> bool:
        return self is other or bool(self._original == other)

    def __hash__(self) -> int:
        return hash(self._original)

    def __repr__(self) -> str:
        return repr(self._original)

    def __reduce__(self) -> str:
        return str(self._original.__name__)


def method(original: Callable[..., Any], note: Note, failed: Callable[[BaseException], None]) -> Any:
    """A function in the place of a method or function written in Python."""

    @functools.wraps(original)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            failed(error)
            without_this_frame(error)
            raise
        note(result, args, _getframe(1))
        return result

    return hooked


def without_this_frame(error: BaseException) -> None:
    """Take the first frame out of a traceback, so that it reads as if we were not there (not on 3.10)."""
    trace = error.__traceback__
    if trace is not None:
        error.__traceback__ = trace.tb_next
