"""Looks at process ARGV[1] with only ARGV[2] free FDs; prints the number of FDs or the error."""

import json
import os
import resource
import sys

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.observe import observe_tree

free = int(sys.argv[2])
used = max(map(int, os.listdir("/proc/self/fd")))  # The highest one is the listing's own.
resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, used + free))
try:
    print(json.dumps(observe_tree(int(sys.argv[1])).processes[0].fds.open))
except CannotObserve as error:
    print(json.dumps([type(error).__name__, error.text]))
