"""What works without the extras, and what is said where they are missing."""

import subprocess
import sys

# Stands for an install without extras: these packages cannot be found.
BARE = """
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "numpy", "requests", "pydantic", "dotenv", "PIL", "simplejpeg"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


def bare(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    start = {
        "amidiag": "from amidiag.cli.main import run",
        "ami": "from worker.cli import run",
    }[program]
    code = f"{BARE}\n{start}\nrun()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def test_reading_from_outside_needs_no_extra() -> None:
    assert bare("amidiag", "fds", "1", "--json").returncode == 0
    assert bare("amidiag", "schema").returncode == 0
    assert "quickstart" in bare("amidiag", "soak", "list").stdout.split()


def test_a_missing_extra_is_one_line() -> None:
    done = bare("amidiag", "soak", "quickstart")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == "amidiag: soak needs numpy, which is not installed: pip install 'amidiag[worker,soak]'"
    done = bare("ami", "worker", "settings")
    assert done.returncode == 78
    (line,) = done.stderr.splitlines()
    assert line.endswith("is not installed: pip install 'amidiag[worker]'")
