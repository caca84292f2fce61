"""The usual calls of `fds` and `shm`, read without click: its import and its parser cost 15 ms, as 5,000 FDs do.

Only PIDs and flags in full, as `amidiag fds 4711 --tree --json`. All else is click's: options with a value, what is
wrong, help, completion.
"""

from __future__ import annotations

import os
from typing import Any

_FLAGS = {
    "fds": {"--tree": "tree", "--no-peers": "no_peers", "--json": "as_json"},
    "shm": {"--tree": "tree", "--json": "as_json"},
}


def read_plain(arguments: list[str]) -> dict[str, Any] | None:
    """What the function of the command, `arguments[0]`, is to be called with; None where click has to read it."""
    if not arguments or arguments[0] not in _FLAGS or any(name.endswith("_COMPLETE") for name in os.environ):
        return None
    command, *words = arguments
    flags, pids, given = _FLAGS[command], [], {}
    for word in words:
        if word in flags:
            given[flags[word]] = True
        elif word.isascii() and word.isdecimal() and len(word) < 10 and int(word):
            pids.append(int(word))
        else:
            return None
    if command == "fds":
        return {"pids": pids or None, **given}
    # Of `shm` one process at most, and one where its tree is asked for.
    return {"pid": pids[0], **given} if len(pids) == 1 else None if pids or "tree" in given else given
