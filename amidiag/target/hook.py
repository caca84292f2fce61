"""One function in the place of another, as like it as can be, that says what came out of it.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from sys import _getframe
from types import FrameType
from typing import Any, Protocol

Note = Callable[[Any, "tuple[Any, ...]", FrameType], None]
"""What to do with (result, arguments, caller's frame)."""


class Owner(Protocol):
    """Whose hooks these are. They only pass through while it has no `region`."""

    region: Any

    def swallow(self, error: Exception) -> None:
        """Count what a note has raised, if it is ours."""

    def failed(self, error: BaseException) -> None:
        """Be told of what the original has raised. Never raises."""


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
        owner: Owner,
        prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None,
    ) -> None:
        """`prepare` may change the arguments."""
        self._original = original
        self._note = note
        self._owner = owner
        self._prepare = prepare
        self.__module__ = module

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if self._prepare is not None:
            try:
                args = self._prepare(args)
            except Exception as error:  # noqa: BLE001 - see Tracer.swallow
                self._owner.swallow(error)
        try:
            result = self._original(*args, **kwargs)
        except BaseException as error:
            self._owner.failed(error)
            without_this_frame(error)
            raise
        if self._owner.region is not None:
            try:
                self._note(result, args, _getframe(1))
            except Exception as error:  # noqa: BLE001 - see Tracer.swallow
                self._owner.swallow(error)
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


def method(original: Callable[..., Any], note: Note, owner: Owner) -> Any:
    """A function in the place of a method or function written in Python."""

    @functools.wraps(original)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            owner.failed(error)
            without_this_frame(error)
            raise
        if owner.region is not None:
            try:
                note(result, args, _getframe(1))
            except Exception as error:  # noqa: BLE001 - see Tracer.swallow
                owner.swallow(error)
        return result

    return hooked


def without_this_frame(error: BaseException) -> None:
    """Take the first frame out of a traceback, so that it reads as if we were not there (not on 3.10)."""
    trace = error.__traceback__
    if trace is not None:
        error.__traceback__ = trace.tb_next
