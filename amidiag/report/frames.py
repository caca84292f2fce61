"""Frames of call stacks as `model` has them, `file:line function`, taken apart again."""

from __future__ import annotations

import re

from amidiag.attach.trace_region import Frame

_FRAME = re.compile(r"(.*):(\d+) (.*)", re.DOTALL)


def parse(text: str) -> Frame | None:
    """The frame of such a text; None where it is something else."""
    match = _FRAME.fullmatch(text)
    return None if match is None else Frame(match[1], int(match[2]), match[3])
