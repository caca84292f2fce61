"""Enters the cgroup of file ARGV[1], becomes ARGV[2:] with this Python behind, which says what surrounds it."""

import os
import sys

LOOK = """
import json, os
from dataclasses import asdict
from amidiag.procfs.surroundings import surroundings
print(json.dumps(asdict(surroundings(os.getpid()))))
"""
with open(sys.argv[1], "w") as procs:
    procs.write(str(os.getpid()))
os.execvp(sys.argv[2], [*sys.argv[2:], sys.executable, "-c", LOOK])
