"""Has children, some tens at a time, which hold some of everything and end within 0 to 40 ms. Ends with its test."""

import json
import mmap
import os
import socket
import threading
import time


def hold() -> list[object]:
    """Pipes, sockets of three kinds, a connection, a memfd, shared memory, an eventfd, a deleted file, a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    return [
        os.pipe(),
        os.eventfd(0),
        os.memfd_create("held"),
        os.open("/tmp", os.O_TMPFILE | os.O_RDWR),
        mmap.mmap(-1, 4096),
        socket.socketpair(),
        socket.socket(type=socket.SOCK_DGRAM),
        listener,
        socket.create_connection(listener.getsockname()),
    ]


test = os.getppid()
print(json.dumps("ready"), flush=True)
number = 0
while os.getppid() == test:
    child = os.fork()
    if child == 0:
        held = hold() if number % 2 else []
        time.sleep(number % 5 * 0.01)
        os._exit(0)
    number += 1
    if number > 30:  # Not before: so that there are always some zombies.
        os.wait()
