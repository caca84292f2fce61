"""Call sites, interned: each stack of up to 16 frames is written into the table once and has a number.

Known stacks are recognised by their code objects and instruction offsets, without a look at lines or
names. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
from _thread import get_ident
from time import sleep

from .trace_layout import (
    DEPTH,
    FRAME,
    R_FRAMES,
    R_NO_SITE,
    R_SITES,
    R_STRINGS,
    SITE,
    STRING,
    Geometry,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType

_OWN_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LONGEST_STRING = 1000
# A thread waits so often, for so long (seconds), for another that is adding a site.
_PATIENCE, _PAUSE_S = 200, 0.001
# The walk over a stack takes so many frames at a step.
_STEPS = (None,) * (DEPTH // 4)


class CallSites:
    """Writes the sites of one region."""

    def __init__(self, memory: memoryview, at: int, geometry: Geometry, words: memoryview) -> None:
        self._memory = memory
        self._at = at
        self._geometry = geometry
        self._words = words
        # Who is adding a site: (thread,), one of its own for each time.
        self._inside: tuple[int] | None = None
        self._known: dict[tuple[int, ...], int] = {}
        # The known stacks are known by id(): their code must live on, lest another gets its id.
        self._kept: list[CodeType] = []
        self._sites: dict[tuple[int, ...], int] = {}
        self._frames: dict[tuple[str, str, int], int] = {}
        self._strings: dict[str, int] = {}

    def number(self, frame: FrameType) -> int:
        """The number of the site of `frame`, from 1; 0 if the table has no room for it."""
        key: list[int] = []
        a: FrameType | None = frame
        # Four at a step: this loop is what a resource costs most.
        for _ in _STEPS:
            if a is None:
                break
            b = a.f_back
            c = b and b.f_back
            d = c and c.f_back
            if b is None or c is None or d is None:
                while a is not None:
                    key += (id(a.f_code), a.f_lasti)
                    a = a.f_back
                break
            key += (
                id(a.f_code),
                a.f_lasti,
                id(b.f_code),
                b.f_lasti,
                id(c.f_code),
                c.f_lasti,
                id(d.f_code),
                d.f_lasti,
            )
            a = d.f_back
        known = tuple(key)
        site = self._known.get(known)
        if site is None:
            site = self._intern(known, frame)
        if site == 0:
            self._words[R_NO_SITE] += 1
        return site

    def _intern(self, key: tuple[int, ...], frame: FrameType) -> int:
        me = (get_ident(),)
        for _ in range(_PATIENCE):
            try:
                # No lock: Ctrl-C may come between the taking of one and the noting that it is taken. Within
                # a line that calls nothing the interpreter changes no thread and handles no signal.
                holder = self._inside = self._inside or me
                if holder is me:
                    site = self._known.get(key)
                    return self._add(key, frame) if site is None else site
            finally:
                self._inside = None if self._inside is me else self._inside
            if holder[0] == me[0]:
                # A signal handler or finalizer, come in while its own thread is inside.
                return 0
            sleep(_PAUSE_S)
        return 0

    def _add(self, key: tuple[int, ...], frame: FrameType) -> int:
        codes, numbers = [], []
        caller: FrameType | None = frame
        for _ in range(len(key) // 2):
            if caller is None:
                break
            code = caller.f_code
            codes.append(code)
            if not code.co_filename.startswith(_OWN_DIRECTORY):
                numbers.append(self._frame(code, caller.f_lineno or 0))
            caller = caller.f_back
        # Where there is no room any more that is remembered too: it is not looked for again each time.
        site = 0 if 0 in numbers else self._site(tuple(numbers))
        self._remember(key, codes, site)
        return site

    def _remember(self, key: tuple[int, ...], codes: list[CodeType], site: int) -> None:
        if len(self._known) >= 4 * self._geometry.sites:
            # A program that makes its code anew each time (templates, `exec`) comes by the same lines
            # with other code. First the ids go, then what kept them from being given to others.
            self._known = {}
            self._kept = []
        self._kept.extend(codes)
        self._known[key] = site

    def _site(self, frames: tuple[int, ...]) -> int:
        site = self._sites.get(frames)
        if site is not None:
            return site
        count = self._words[R_SITES]
        if count >= self._geometry.sites:
            return 0
        at = self._at + self._geometry.sites_at + count * SITE.size
        SITE.pack_into(self._memory, at, *frames, *(0,) * (DEPTH - len(frames)))
        self._words[R_SITES] = count + 1
        self._sites[frames] = count + 1
        return count + 1

    def _frame(self, code: CodeType, line: int) -> int:
        name = getattr(code, "co_qualname", code.co_name)
        key = (code.co_filename, name, line)
        number = self._frames.get(key)
        if number is not None:
            return number
        count = self._words[R_FRAMES]
        file, function = self._string(code.co_filename), self._string(name)
        if count >= self._geometry.frames or file < 0 or function < 0:
            return 0
        at = self._at + self._geometry.frames_at + count * FRAME.size
        FRAME.pack_into(self._memory, at, file, function, line, 0)
        self._words[R_FRAMES] = count + 1
        self._frames[key] = count + 1
        return count + 1

    def _string(self, text: str) -> int:
        """Its offset among the strings, or -1 if there is no room."""
        known = self._strings.get(text)
        if known is not None:
            return known
        # Of a path that is too long the end says more.
        data = text.encode("utf-8", "backslashreplace")[-_LONGEST_STRING:]
        used = self._words[R_STRINGS]
        if used + STRING.size + len(data) > self._geometry.strings:
            return -1
        at = self._at + self._geometry.strings_at + used
        STRING.pack_into(self._memory, at, len(data))
        self._memory[at + STRING.size : at + STRING.size + len(data)] = data
        # The next one stands aligned.
        self._words[R_STRINGS] = used + (STRING.size + len(data) + 1) // 2 * 2
        self._strings[text] = used
        return used
