"""How much of what a memory cgroup uses is page cache that the kernel gives back when memory runs short.

Without it a cgroup in which files were read looks full: a container that has just downloaded its models would
leave no memory for the work.
"""

from __future__ import annotations

import os
from pathlib import Path

from amidiag.model import CgroupMemory
from amidiag.procfs.mount_table import Mount, read_mount_table


def reclaimable(cgroup: CgroupMemory) -> int:
    """Bytes of page cache in `cgroup` and below that can be given back; 0 where it cannot be told.

    Of what was used lately half, as MemAvailable counts it: programs that run are in there too.
    """
    directory = _directory(cgroup)
    try:
        lines = (directory / "memory.stat").read_text().splitlines() if directory else []
    except OSError:
        return 0  # Gone or hidden: then all of it counts as used, which errs on the safe side.
    values = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
    # In version 1 the plain names leave out the cgroups below; memory.usage_in_bytes does not.
    prefix = "total_" if cgroup.version == 1 else ""
    return values.get(f"{prefix}inactive_file", 0) + values.get(f"{prefix}active_file", 0) // 2


def _directory(cgroup: CgroupMemory) -> Path | None:
    for mount in read_mount_table(os.getpid()):
        root = mount.root.rstrip("/")
        if _accounts(mount, cgroup.version) and f"{cgroup.path}/".startswith(f"{root}/"):
            return Path(mount.point + cgroup.path[len(root) :])
    return None


def _accounts(mount: Mount, version: int) -> bool:
    if version == 2:
        return mount.fs_type == "cgroup2"
    return mount.fs_type == "cgroup" and "memory" in mount.fs_options.split(",")
