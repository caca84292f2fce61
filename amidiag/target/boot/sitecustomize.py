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
        _say(tracer.install().error)
    else:
        inherit.give_up()


def _say(error):
    # type: (object) -> None
    # Not through sys.stderr: where that is full too (a log on the same disk), Python would not start.
    if error is not None and sys.stderr is not None:
        try:
            os.write(2, ("amidiag: tracing is off: %s\n" % (error,)).encode("utf-8", "replace"))
        except OSError:
            return  # Nobody can be told.


_here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]
sys.path_importer_cache.pop(_here, None)
try:
    _begin()
except Exception as error:  # noqa: BLE001 - a program must not stop because it cannot be traced
    _say("%s: %s" % (type(error).__name__, error))

# The program's own; if it has none, Python's `site` is content with just that ImportError.
del sys.modules[__name__]
import sitecustomize  # type: ignore[import-not-found] # noqa: E402, F401
