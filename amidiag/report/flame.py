"""Call sites as flame graphs: collapsed stacks, and a file for speedscope.

Both are pure text: writing them is the caller's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from amidiag.attach.trace_reading import Opened
from amidiag.attach.trace_region import Frame
from amidiag.model import CallSite
from amidiag.report.frames import parse

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_NOT_SEEN = "[not seen being made]"
_NO_SITE = "[call site not kept]"


def stacks(opened: Iterable[Opened]) -> tuple[CallSite, ...]:
    """Every stack that something was made at, whole, with its type as the leaf; most first.

    What was not seen being made is a stack of its own, so that the graph's width is all there is.
    """
    # Stacks by identity: those of one call site are one object, and to hash sixteen frames is slow.
    counts: dict[tuple[int, str], int] = {}
    frames: dict[int, tuple[str, ...]] = {}
    for one in opened:
        stack = None if one.made is None else one.made.stack
        if id(stack) not in frames:
            frames[id(stack)] = _names(stack)
        key = id(stack), one.type
        counts[key] = counts.get(key, 0) + 1
    found = [CallSite(number, (*frames[stack], f"[{kind}]")) for (stack, kind), number in counts.items()]
    return tuple(sorted(found, key=lambda site: (-site.count, site.stack)))


def _names(stack: tuple[Frame, ...] | None) -> tuple[str, ...]:
    if stack is None:
        return (_NOT_SEEN,)
    return tuple(str(frame) for frame in reversed(stack)) or (_NO_SITE,)


def collapsed(sites: Iterable[CallSite]) -> str:
    """One line per stack, root first: `frame;frame;frame COUNT`, as flamegraph.pl and its kin read it.

    A frame is `function (file:line)`. What would end a frame or a line early is replaced.
    """
    counts: dict[str, int] = {}
    for site in sites:
        stack = ";".join(_label(frame) for frame in site.stack)
        counts[stack] = counts.get(stack, 0) + site.count
    return "".join(f"{stack} {number}\n" for stack, number in counts.items())


def speedscope(sites: Iterable[CallSite], name: str, exporter: str) -> str:
    """A file for https://www.speedscope.app, by its schema: one sampled profile, weighed by counts."""
    sites = tuple(sites)
    # The place in `shared.frames` by frame.
    numbers: dict[str, int] = {}
    for site in sites:
        for frame in site.stack:
            numbers.setdefault(frame, len(numbers))
    profile = {
        "type": "sampled",
        "name": name,
        "unit": "none",
        "startValue": 0,
        "endValue": sum(site.count for site in sites),
        "samples": [[numbers[frame] for frame in site.stack] for site in sites],
        "weights": [site.count for site in sites],
    }
    file = {
        "$schema": _SCHEMA,
        "name": name,
        "exporter": exporter,
        "activeProfileIndex": 0,
        "shared": {"frames": [_as_object(frame) for frame in numbers]},
        "profiles": [profile],
    }
    return json.dumps(file) + "\n"


def _label(text: str) -> str:
    frame = parse(text)
    label = text if frame is None else f"{frame.function} ({frame.file}:{frame.line})"
    return " ".join(label.replace(";", ":").split())


def _as_object(text: str) -> dict[str, Any]:
    frame = parse(text)
    return (
        {"name": text} if frame is None else {"name": frame.function, "file": frame.file, "line": frame.line}
    )
