"""Asks about all pipe ends of process ARGV[1] with only ARGV[2] FDs free; prints the answers, or the error."""

import json
import os
import resource
import sys

from amidiag.procfs.fds import open_directory, read_links
from amidiag.procfs.probe import FarEndProbe

pid, free = int(sys.argv[1]), int(sys.argv[2])
directory = open_directory(pid)
pipes = [(fd, link) for fd, link in read_links(directory) if link.startswith("pipe:") and int(fd) > 2]
os.close(directory)
with FarEndProbe(pid) as probe:
    used = max(map(int, os.listdir("/proc/self/fd")))  # The highest one is the listing's own.
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, used + free))
    try:
        print(json.dumps(probe.lonely(pipes)))
    except OSError as error:
        print(json.dumps(error.strerror))
