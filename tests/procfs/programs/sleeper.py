"""Opens FDs and starts threads on demand: a line `fds 10` or `threads 2`; answers with what it has."""

import json
import os
import sys
import threading

stop = threading.Event()
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    what, number = line.split()
    for _ in range(int(number)):
        if what == "fds":
            os.open("/dev/null", os.O_RDONLY)
        else:
            threading.Thread(target=stop.wait, daemon=True).start()
    print(
        json.dumps({"fds": len(os.listdir("/proc/self/fd")) - 1, "threads": threading.active_count()}),
        flush=True,
    )
