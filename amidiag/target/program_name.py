"""What a Python program is called by who looks for it. Standard library only, safe on Python 3.10."""

from __future__ import annotations

import os
import sys

# Options whose value is the next word, if it does not follow at once.
_WITH_VALUE = "WX"


def program_name() -> str:
    """The script or module that runs: never its arguments, nor code given by -c, which may hold secrets."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "--check-hash-based-pycs":
            next(words, None)
        elif word == "-" or not word.startswith("-"):
            return os.path.basename(word)
        elif not word.startswith("--"):
            # Several in one, as in `-um module`.
            for place, option in enumerate(word[1:], start=2):
                if option == "c":
                    return "-c"
                if option == "m":
                    return word[place:] or next(words, "-m")
                if option in _WITH_VALUE:
                    if not word[place:]:
                        next(words, None)
                    break
    return os.path.basename(sys.executable or "python")
