"""Becomes user ARGV[1] and runs every public reader against every process; says what failed."""

import json
import os
import pwd
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from public_readers import OF_THE_MACHINE, catalogue, failure, failures

from amidiag.procfs.processes import all_pids

found = catalogue()
# What they import only when they run is loaded while this Python can still be read.
assert pwd
failures(found, [os.getpid()])
uid = int(sys.argv[1])
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
pids = all_pids()
failed = failures(found, pids)
failed |= {title: error for title, read_all in OF_THE_MACHINE.items() if (error := failure(read_all))}
print(json.dumps({"pids": len(pids), "failures": failed}))
