"""Becomes user ARGV[1] and looks for orphans in /dev/shm; prints them with the notes."""

import json
import os
import sys
from dataclasses import asdict

from amidiag.procfs.shm_directory import open_shm
from amidiag.procfs.shm_orphans import find_orphans

os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
with open_shm(None) as directory:
    report = find_orphans(directory, sysv=True, older_than=0)
print(json.dumps({"orphans": [asdict(orphan) for orphan in report.orphans], "notes": report.notes}))
