"""One function in the place of another, as like it as can be, that says what came out of it.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

from sys import _getframe

from .trace_layout import R_ERRORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, Protocol

    from .trace_region import Region

    Note = Callable[[Region, Any, tuple[Any, ...], FrameType], None]
    """What to do with (region, result, arguments, caller's frame)."""
    Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    Prepare = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], FrameType], Call]
    """What to call in the place of (function, arguments, named arguments), called from a frame."""

    class Owner(Protocol):
        """Whose hooks these are. They only pass through while it has no `region`."""

        region: Region | None

        def swallowed(self, error: BaseException) -> bool:
            """Count what one of ours has raised; False if it is the program's own and must go on."""

        def failed(self, error: BaseException) -> None:
            """Be told of what the original has raised."""


class Hook:
    """Stands for a built-in function.

    No Python function: as a class attribute that would become a method. It equals the original, hashes
    like it (`os.open in os.supports_dir_fd`), passes for its type, and is pickled by its name.

    Where the program stands at its recursion limit no function of Python's can be called any more: what
    must not fail there is written out here, each time.
    """

    __slots__ = ("__weakref__", "_note", "_original", "_owner")

    def __init__(self, original: Callable[..., Any], owner: Owner, note: Note | None) -> None:
        self._original = original
        self._owner = owner
        self._note = note

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            result = self._original(*args, **kwargs)
        except BaseException as error:
            # The traceback becomes what it would be without this frame (not on 3.10).
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]
            region = self._owner.region
            if type(error) is OSError and region is not None:
                try:
                    self._owner.failed(error)
                except RecursionError:
                    region.words[R_ERRORS] += 1
            raise
        region = self._owner.region
        if region is not None and self._note is not None:
            try:
                self._note(region, result, args, _getframe(1))
            except BaseException as error:
                if type(error) is RecursionError and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
                    region.words[R_ERRORS] += 1
                elif not self._owner.swallowed(error):
                    raise
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

    @property
    def __module__(self) -> str:  # type: ignore[override]
        # Where it is found: `_io.open` is left alone, since every import of a file goes through it.
        name: str = self._original.__module__
        return "io" if name == "_io" else name

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


class PreparingHook(Hook):
    """One that may change what is called, and from where."""

    __slots__ = ("_prepare",)
    # A class has its own of these: here they are the original's too.
    __module__ = vars(Hook)["__module__"]
    __doc__ = vars(Hook)["__doc__"]

    def __init__(
        self, original: Callable[..., Any], owner: Owner, note: Note | None, prepare: Prepare
    ) -> None:
        super().__init__(original, owner, note)
        self._prepare = prepare

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        region = self._owner.region
        call, given, named = self._original, args, kwargs
        if region is not None:
            try:
                call, given, named = self._prepare(call, args, kwargs, _getframe(1))
            except BaseException as error:
                if type(error) is RecursionError and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
                    region.words[R_ERRORS] += 1
                elif not self._owner.swallowed(error):
                    raise
        try:
            result = call(*given, **named)
        except BaseException as error:
            # Without this frame and that of `in_place`.
            trace = error.__traceback__.tb_next  # type: ignore[union-attr]
            error.__traceback__ = trace.tb_next if trace is not None and given is not args else trace
            if type(error) is OSError and region is not None:
                try:
                    self._owner.failed(error)
                except RecursionError:
                    region.words[R_ERRORS] += 1
            raise
        region = self._owner.region
        if region is not None and self._note is not None:
            try:
                self._note(region, result, args, _getframe(1))
            except BaseException as error:
                if type(error) is RecursionError and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
                    region.words[R_ERRORS] += 1
                elif not self._owner.swallowed(error):
                    raise
        return result


def method(original: Callable[..., Any], owner: Owner, note: Note) -> Any:
    """A function in the place of a method or function written in Python."""

    def hooked(*args: Any, **kwargs: Any) -> Any:
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]
            if type(error) is OSError and owner.region is not None:
                try:
                    owner.failed(error)
                except RecursionError:
                    owner.region.words[R_ERRORS] += 1
            raise
        region = owner.region
        if region is not None:
            try:
                note(region, result, args, _getframe(1))
            except BaseException as error:
                if type(error) is RecursionError and error.__traceback__.tb_next is None:  # type: ignore[union-attr]
                    region.words[R_ERRORS] += 1
                elif not owner.swallowed(error):
                    raise
        return result

    return _like(hooked, original)


def _like(hooked: Any, original: Any) -> Any:
    """As functools.wraps does it: that module would come into every program."""
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        if hasattr(original, name):
            setattr(hooked, name, getattr(original, name))
    hooked.__dict__.update(getattr(original, "__dict__", {}))
    hooked.__wrapped__ = original
    return hooked
