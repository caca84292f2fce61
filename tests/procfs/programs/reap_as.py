"""Becomes user ARGV[1], puts a segment of a dead maker into /dev/shm and reaps; prints found, removed and kept."""

import json
import os
import sys
from pathlib import Path

from amidiag.procfs.shm_directory import open_shm
from amidiag.procfs.shm_orphans import find_orphans
from amidiag.procfs.shm_reap import remove, sort_out

os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
Path(f"/dev/shm/{sys.argv[2]}").write_bytes(bytes(8192))
with open_shm(None) as directory:
    found = find_orphans(directory, sysv=False, older_than=-1).found
    chosen = sort_out(directory, found, any_name=True)
    done = dict(remove(directory, chosen.removable, any_name=True))
print(
    json.dumps(
        {"certain": {o.orphan.name: o.orphan.certain for o in found}, "kept": chosen.kept, "done": done}
    )
)
