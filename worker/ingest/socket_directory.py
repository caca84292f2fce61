"""The directory in which loader processes have the sockets by which they hand over their batches."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing import util


def make_sure() -> None:
    """Have one that all loader processes to come share, and that goes with this process.

    By itself each process that was forked makes one of its own, which stays behind when it is killed. One that was
    removed meanwhile, as by a cleaner of /tmp, is made anew.

    Raises:
        OSError: there is no room for one.
    """
    # Not another one: the fork server and the end of this process know it by its name.
    with suppress(FileExistsError):
        os.mkdir(util.get_temp_dir(), 0o700)  # noqa: PTH102
