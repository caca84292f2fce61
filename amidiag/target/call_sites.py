"""Call sites, interned: each stack of up to 16 frames is written into the table once and has a number.

Known stacks are recognised by their code objects and instruction offsets, without a look at lines or
names. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import mmap
import os
from _thread import allocate_lock, get_ident
from types import CodeType, FrameType

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

_OWN_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LONGEST_STRING = 1000
_PATIENCE_S = 0.2


class CallSites:
    """Writes the sites of one region."""

    def __init__(self, memory: mmap.mmap, at: int, geometry: Geometry, words: memoryview) -> None:
        self._memory = memory
        self._at = at
        self._geometry = geometry
        self._words = words
        self._lock = allocate_lock()
        self._holder = 0
        self._known: dict[tuple[int, ...], int] = {}
        # The known stacks are known by id(): their code must live on, lest another gets its id.
        self._kept: list[CodeType] = []
        self._sites: dict[tuple[int, ...], int] = {}
        self._frames: dict[tuple[str, str, int], int] = {}
        self._strings: dict[str, int] = {}

    def number(self, frame: FrameType | None) -> int:
        """The number of the site of `frame`, from 1; 0 if the table has no room for it."""
        key: list[int] = []
        caller, depth = frame, DEPTH
        while caller is not None and depth:
            key += (id(caller.f_code), caller.f_lasti)
            caller = caller.f_back
            depth -= 1
        site = self._known.get(tuple(key))
        if site is None:
            site = self._intern(tuple(key), frame)
        if site == 0:
            self._words[R_NO_SITE] += 1
        return site

    def _intern(self, key: tuple[int, ...], frame: FrameType | None) -> int:
        # A signal handler or finalizer may come here while its own thread is inside: it must not wait for itself.
        if not self._lock.acquire(False) and (
            self._holder == get_ident() or not self._lock.acquire(True, _PATIENCE_S)
        ):
            return 0
        try:
            self._holder = get_ident()
            return self._add(key, frame)
        finally:
            self._holder = 0
            self._lock.release()

    def _add(self, key: tuple[int, ...], frame: FrameType | None) -> int:
        if len(self._known) >= 4 * self._geometry.sites:
            return 0
        codes, numbers = [], []
        caller, depth = frame, DEPTH
        while caller is not None and depth:
            code = caller.f_code
            codes.append(code)
            if not code.co_filename.startswith(_OWN_DIRECTORY):
                numbers.append(self._frame(code, caller.f_lineno or 0))
            caller = caller.f_back
            depth -= 1
        if 0 in numbers:
            return 0
        site = self._site(tuple(numbers))
        if site:
            self._kept.extend(codes)
            self._known[key] = site
        return site

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
