"""Calling from somebody else's line of code: warnings of Python's own are placed by the frame that calls.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    CallFrom = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

# On one line: that line becomes the frame's.
_CALL = (lambda function, args, kwargs: function(*args, **kwargs)).__code__
_function_type: Any = type(lambda: None)


def caller_as(frame: FrameType) -> CallFrom:
    """What calls `function(*args, **kwargs)` so that a warning names the file, line and module of `frame`,
    and is filtered and shown once as if it came from there."""
    code = _CALL.replace(
        co_filename=frame.f_code.co_filename,
        co_name=frame.f_code.co_name,
        co_firstlineno=frame.f_lineno or 1,
    )
    function: CallFrom = _function_type(code, frame.f_globals)
    return function
