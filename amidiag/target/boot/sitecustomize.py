"""Begins the tracer in a Python program that was started with our PYTHONPATH, then steps aside.

Python imports `sitecustomize` at every start (module `site`). Afterwards the program finds its path, its
PYTHONPATH and its own `sitecustomize`, if there is one, as they would be without us. Written for any
Python, since any may be started; the tracer needs CPython 3.10.
"""

import os
import sys


def _begin():
    # type: () -> None
    if sys.version_info < (3, 10) or sys.implementation.name != "cpython":
        return
    # Under a name of its own: whatever amidiag the program itself may import stays what it would be.
    package = type(sys)("_amidiag_target")
    package.__path__ = [os.path.dirname(_here)]
    sys.modules[package.__name__] = package
    from _amidiag_target import inherit, tracer  # type: ignore[import-not-found]

    if inherit.wanted(os.environ):
        started = tracer.install()
        if started.error is not None and sys.stderr is not None:
            sys.stderr.write("amidiag: tracing is off: " + started.error + "\n")
    else:
        inherit.give_up()


_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]
try:
    _begin()
except Exception as error:  # noqa: BLE001 - a program must not stop because it cannot be traced
    if sys.stderr is not None:
        sys.stderr.write("amidiag: tracing is off: %s: %s\n" % (type(error).__name__, error))

_ours = sys.modules.pop(__name__)
try:
    import sitecustomize  # type: ignore[import-not-found] # noqa: F401 - the program's own
except ImportError as error:
    if getattr(error, "name", "sitecustomize") != "sitecustomize":
        raise
    # The import system expects to find what it has just imported.
    sys.modules[__name__] = _ours
