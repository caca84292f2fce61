"""Becomes user ARGV[1] and looks at the threads and surroundings of process ARGV[2] as that."""

import json
import os
import sys
from dataclasses import asdict

from amidiag.procfs.identity import identify
from amidiag.procfs.surroundings import surroundings
from amidiag.procfs.threads import threads

UID, PID = int(sys.argv[1]), int(sys.argv[2])
# Loaded while this Python can still be read.
surroundings(os.getpid()), threads(os.getpid()), identify(PID)
os.setgroups([])
os.setgid(UID)
os.setuid(UID)
answer = {"surroundings": asdict(surroundings(PID)), "threads": [asdict(group) for group in threads(PID)]}
print(json.dumps(answer))
