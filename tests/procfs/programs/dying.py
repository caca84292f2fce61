"""Has ARGV[1] children, some tens at a time, which end within 0 to 40 ms, some with a child of their own."""

import json
import os
import sys
import time

print(json.dumps("ready"), flush=True)
alive = 0
for number in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        for _ in range(number % 7 * 10):
            os.pipe()
        if number % 3 == 0:
            os.fork()
        time.sleep(number % 5 * 0.01)
        os._exit(0)
    alive += 1
    if alive > 30:  # Not before: so that there are always some zombies.
        os.wait()
        alive -= 1
