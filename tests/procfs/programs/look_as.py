"""Becomes user ARGV[1] and looks at process ARGV[2] as that; prints the observation and the error."""

import json
import os
import pwd
import sys
from dataclasses import asdict

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.fds import count, scan
from amidiag.procfs.identity import identify
from amidiag.procfs.observe import observe_tree
from amidiag.procfs.sampler import light_sample

UID, PID = int(sys.argv[1]), int(sys.argv[2])
assert pwd  # Loaded while this Python can still be read.
os.setgroups([])
os.setgid(UID)
os.setuid(UID)
answer: dict[str, object] = {"count": count(PID), "sample": asdict(light_sample(identify(PID)))}
try:
    scan(PID)
except CannotObserve as error:
    answer |= {"error": type(error).__name__, "text": error.text}
print(json.dumps(answer | {"observation": asdict(observe_tree(PID))}))
