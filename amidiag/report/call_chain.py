"""The call sites of a finding in few lines: the program's own frame, and through which libraries it went on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from amidiag.attach.own_frame import is_ours, own_frame
from amidiag.attach.trace_region import Frame
from amidiag.model import CallSite
from amidiag.report.frames import parse
from amidiag.report.words import count

SHOWN = 3
"""Call sites that are printed of each finding; the JSON has all."""
_ROOT = re.compile(r".*/(?:site-packages|dist-packages|lib(?:32|64)?/python3(?:\.\d+)?t?)/")


def call_site_lines(sites: Sequence[CallSite]) -> Iterator[str]:
    """`498 made at worker/ingest/loader.py:103 …`, and under it a line per library that it went through."""
    for site in sites[:SHOWN]:
        first, *rest = _steps(site)
        yield f"{count(site.count)} made at {first}"
        yield from (f"  → {step}" for step in rest)
    if len(sites) > SHOWN:
        left = sites[SHOWN:]
        yield f"{count(sum(s.count for s in left))} more at {count(len(left))} other places (--json has them)"


def _steps(site: CallSite) -> list[str]:
    """The own frame, then of each library in turn where it was entered and where it went on from."""
    frames = [frame for text in site.stack if (frame := parse(text)) is not None]
    if not frames:
        return list(site.stack[-1:]) or ["a place that was not kept"]
    own = own_frame(frames[::-1])
    inside = frames[len(frames) - frames[::-1].index(own) :]
    steps = [_place(own)]
    for _, part in groupby((frame for frame in inside if not is_ours(frame)), key=_library):
        first, *more = part
        steps.append(_place(first) + (f" … {_place(more[-1])}" if more else ""))
    return steps


def _place(frame: Frame) -> str:
    return f"{_short(frame.file)}:{frame.line} {frame.function}"


def _short(file: str) -> str:
    """From the package on; of a program's own file its directory and name."""
    library = _ROOT.sub("", file)
    return library if library != file else "/".join(file.split("/")[-3:]).lstrip("/")


def _library(frame: Frame) -> str:
    return _short(frame.file).split("/")[0]
