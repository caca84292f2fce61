"""Whether a command line runs the AMI worker: ours, or the public one of ami-data-companion."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

# Subcommands of `ami worker` that end by themselves and take no job.
_NOT_POLLING = frozenset(("register", "settings", "tune"))


def is_ami_worker(words: Sequence[str]) -> bool:
    """Whether these words, argument 0 first, are of a Python program (or `ami` itself) that polls for jobs.

    The words may stand anywhere behind the interpreter, as profilers and our fault launcher run the
    program in their own process: `python -m memray run /venv/bin/ami worker run`. What is no Python, as
    `timeout` or `docker run`, only starts one.
    """
    if not words or not (_base(words[0]) == "ami" or _base(words[0]).startswith(("python", "pypy"))):
        return False
    for place, (word, following) in enumerate(pairwise(words)):
        if word == "-m" and following in ("worker", "worker.cli"):
            return _polls(words[place + 2 :])
        if following == "worker" and _base(word) == "ami":
            return _polls(words[place + 2 :])
    return False


def _polls(arguments: Sequence[str]) -> bool:
    return not (arguments and arguments[0] in _NOT_POLLING)


def _base(path: str) -> str:
    return path.rpartition("/")[2]
