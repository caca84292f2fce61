"""What the name of a shared-memory file tells: who makes such files, and which process made this one."""

from __future__ import annotations

import re

SEMAPHORE = "sem."
"""How glibc begins the file of a POSIX semaphore (sem_overview(7))."""

# (name, maker). A group "pid" is the creator. What is not here may be anybody's file, put there by hand.
_MAKERS = (
    # torch/csrc and c10, NewProcessWideShmHandle: both sharing strategies.
    (re.compile(r"torch_(?P<pid>\d+)_\d+_\d+"), "torch"),
    # Lib/multiprocessing/shared_memory.py, _make_filename.
    (re.compile(r"psm_[0-9a-f]{8}"), "Python shared_memory"),
    # Lib/multiprocessing/synchronize.py, SemLock._make_name: the prefix of the process is "/mp".
    (re.compile(r"sem\.mp-[a-z0-9_]{8}"), "Python multiprocessing"),
    # loky/backend/synchronize.py, which joblib brings along.
    (re.compile(r"sem\.loky-(?P<pid>\d+)-[a-z0-9_]+"), "loky"),
    # The OpenMP runtime of LLVM and Intel (kmp_runtime.cpp, __kmp_reg_status_name): PID and uid.
    (re.compile(r"__KMP_REGISTERED_LIB_(?P<pid>\d+)(_\d+)?"), "OpenMP"),
    # NCCL, shmutils.cc: mkstemp.
    (re.compile(r"nccl-[A-Za-z0-9]{6}"), "NCCL"),
)


def maker_of(name: str) -> str | None:
    """Which program or library gives such names in `/dev/shm` (without the directory); None if none known."""
    return next((maker for pattern, maker in _MAKERS if pattern.fullmatch(name)), None)


def creator_in(name: str) -> int | None:
    """The PID in such a name, as the creator knew it: that of its own PID namespace."""
    for pattern, _ in _MAKERS:
        match = pattern.fullmatch(name)
        if match:
            pid = match.groupdict().get("pid")
            return None if pid is None else int(pid)
    return None
