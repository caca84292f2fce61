"""The process of the embedded Antenna server, started by `AntennaServer`, not by hand.

It ends as soon as its controller closes the control socket or dies, whichever way, and ignores
Ctrl-C: the controller, which gets it too, may still want to drain its worker against this server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback

from amidiag.soak.antenna.calls import Calls
from amidiag.soak.antenna.codec import decode_config
from amidiag.soak.antenna.control import Control
from amidiag.soak.antenna.listener import Listener
from amidiag.soak.antenna.parts import Parts


def main() -> None:
    """Serves until the controller is gone, then ends the process at once: there is nothing to keep."""
    parser = argparse.ArgumentParser(prog="python -m amidiag.soak.antenna", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True, help="a SOCK_SEQPACKET Unix socket")
    parser.add_argument("--controller", type=int, required=True, help="PID of the controller, our parent")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.excepthook = _die
    with socket.socket(fileno=arguments.control_fd) as control:
        _serve(control, arguments.controller)
    os._exit(0)


def _serve(control: socket.socket, controller_pid: int) -> None:
    configuration = control.recv(65536)
    if not configuration:
        return
    parts = Parts.of(decode_config(json.loads(configuration)))
    # Images lie on an object store, which has good and bad minutes of its own.
    listener, store = Listener(parts.meter), Listener(parts.meter)
    calls = Calls(parts, lambda: store.origin)
    listener.serve(calls.answer)
    store.serve(calls.answer)
    with contextlib.suppress(ConnectionError):  # the controller has gone meanwhile
        control.send(json.dumps({"origin": listener.origin}).encode())
        _obey(control, controller_pid, Control(parts, listener, store))


def _obey(control: socket.socket, controller_pid: int, words: Control) -> None:
    """Returns when the controller closed its end or died."""
    poller = select.poll()
    poller.register(control, select.POLLIN)
    controller = _watch(controller_pid)
    if controller is not None:
        poller.register(controller, select.POLLIN)
    while True:
        if any(fd == controller for fd, _ in poller.poll()):
            return
        message, channels, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for channel in channels:
            words.listen(socket.socket(fileno=channel))


def _watch(controller_pid: int) -> int | None:
    """A pidfd of the controller: readable once it is dead, also where a fork of it keeps the socket open.

    None where the kernel (before 5.3) or a sandbox has no pidfd_open(2); the socket's end has to do.
    """
    try:
        controller = os.pidfd_open(controller_pid)
    except ProcessLookupError:
        os._exit(0)
    except OSError:
        return None
    # Still our parent, so the PID was not reused before the pidfd was there.
    if os.getppid() != controller_pid:
        os._exit(0)
    return controller


def _die(failed: threading.ExceptHookArgs) -> None:
    """A server with a thread less would hang its worker: rather end, with the reason on stderr."""
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback, file=sys.stderr)
    sys.stderr.flush()
    os._exit(70)


if __name__ == "__main__":
    main()
