"""Call sites as flame graphs: collapsed stacks, and a file for speedscope.

Both are pure text: writing them is the caller's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from amidiag.model import CallSite

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_FRAME = re.compile(r"(?P<file>.*):(?P<line>\d+) (?P<name>.*)", re.DOTALL)


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


def _label(frame: str) -> str:
    match = _FRAME.fullmatch(frame)
    text = f"{match['name']} ({match['file']}:{match['line']})" if match else frame
    return " ".join(text.replace(";", ":").split())


def _as_object(frame: str) -> dict[str, Any]:
    match = _FRAME.fullmatch(frame)
    if match is None:
        return {"name": frame}
    return {"name": match["name"], "file": match["file"], "line": int(match["line"])}
