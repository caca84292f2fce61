"""Looks at process 1 where there is no /proc; prints the error."""

import json
import os
import tempfile

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.observe import observe_tree

os.chroot(tempfile.mkdtemp())
try:
    observe_tree(1)
except CannotObserve as error:
    print(json.dumps([type(error).__name__, error.text]))
