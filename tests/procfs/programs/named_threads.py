"""Starts ARGV[1] threads with a name of their own, which wait for ever, and ends as many that it starts meanwhile."""

import json
import sys
import threading


def wait(name: str) -> None:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as file:
        file.write(name)
    named.release()
    threading.Event().wait()


named = threading.Semaphore(0)
for _ in range(int(sys.argv[1])):
    threading.Thread(target=wait, args=("named (x) y",), daemon=True).start()
for _ in range(int(sys.argv[1])):
    named.acquire()
print(json.dumps("ready"), flush=True)
sys.stdin.readline()
for _ in range(1000):
    brief = [threading.Thread(target=int) for _ in range(10)]
    for thread in brief:
        thread.start()
    for thread in brief:
        thread.join()
