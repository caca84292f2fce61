"""Where in a TOML text a key stands: tomllib keeps no positions."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.-]+)\s*\]\]?\s*(#.*)?")


def line_of(text: str, place: Sequence[str | int]) -> int:
    """The line, from 1, of the key at `place`; of its table's header, or 1, where the key itself is not found.

    `place` is a path of keys and of indices into arrays of tables, as pydantic names it: ("classifier", 1, "file").
    """
    tables = [part for part in place if isinstance(part, str)]
    index = next((part for part in place if isinstance(part, int)), 0)
    here, nth, header_at = "", -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.fullmatch(line)
        if header:
            # Of an array only the headers of its own name count.
            nth = nth + 1 if header[1] == "[[" and here == header[2] else 0
            here = header[2]
        inside = len(tables) > 1 and here == tables[0] and nth == index
        if header and here == tables[0] and nth == index:
            header_at = number
        elif (inside or (len(tables) == 1 and not here)) and _assigns(line, tables[-1]):
            return number
        elif not here and _assigns(line, tables[0]):
            # A table may also be written inline, as `detector = {…}`.
            header_at = number
    return header_at


def _assigns(line: str, key: str) -> bool:
    return re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line) is not None
