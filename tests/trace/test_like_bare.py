"""A traced program does what it does untraced: every program here says what it finds, and is run both ways."""

from __future__ import annotations

import sys

import pytest
from trace_programs import Programs

SAYS = {
    "what_the_functions_are": """
import builtins, copy, functools, inspect, io, os, pickle, posix, subprocess, types, weakref
import _posixsubprocess
for function in (open, os.open, os.pipe, os.putenv, os.execve, os.memfd_create, os.eventfd):
    print(repr(function), function.__name__, function.__qualname__, function.__doc__, function.__self__)
    print(isinstance(function, types.BuiltinFunctionType), inspect.isbuiltin(function), callable(function))
    print(inspect.signature(function), function.__text_signature__)
    print(copy.copy(function) is function, copy.deepcopy(function) is function, weakref.ref(function)() is function)
    print(pickle.loads(pickle.dumps(function)) is function, hasattr(function, "__get__"))
    print(functools.partial(function).func is function)
print(pickle.dumps(os.pipe), os.pipe.__module__)
print(open is io.open is builtins.open, os.pipe is posix.pipe, os.open is posix.open)
print(os.open in os.supports_dir_fd, os.stat in os.supports_fd, {os.open, os.stat} <= os.supports_dir_fd)
print(os.open == posix.open, os.open != os.pipe, len({os.open, posix.open, os.pipe}))
class Holder:
    open, pipe = open, os.pipe
print(Holder().pipe is os.pipe, Holder().open("/dev/null").name)
print(functools.partial(open, "/dev/null")(mode="rb").name)
print(pickle.loads(pickle.dumps(functools.partial(os.pipe))).func is os.pipe)
""",
    "who_looks_like_what_where": """
import os, sys
print(sys.path, sys.meta_path[-3:], os.environ.get("PYTHONPATH"), sys.argv, sys.flags)
try:
    import sitecustomize
    print("it has one")
except ImportError as error:
    print(error)
print(sorted(name for name in os.listdir("/proc/self/fd")))
print(os.open("/dev/null", os.O_RDONLY), os.pipe())
import socket, threading, subprocess, importlib.util
for module in (socket, threading, subprocess):
    print(type(module.__loader__), module.__spec__.loader is module.__loader__, module.__spec__)
print(importlib.util.find_spec("multiprocessing.synchronize").loader.name)
print(isinstance(importlib.util.find_spec("multiprocessing.reduction").loader, type(module.__loader__)))
print(importlib.reload(socket) is socket, socket.socket.__init__.__qualname__)
""",
    "mock": """
import builtins, os
from unittest import mock
with mock.patch("builtins.open", mock.mock_open(read_data="text")) as opened:
    print(open("/nowhere").read(), opened.call_args)
print(open("/dev/null").read() == "")
with mock.patch("os.open", autospec=True, return_value=7) as opened:
    print(os.open("/nowhere", os.O_RDONLY), opened.call_count)
    try:
        os.open()
    except TypeError as error:
        print(error)
with mock.patch.dict(os.environ, {"PYTHONPATH": "/elsewhere"}, clear=True):
    print(dict(os.environ))
print(os.environ.get("PYTHONPATH"), os.path.exists("/"), open.__name__)
os.close(os.open("/dev/null", os.O_RDONLY))
""",
    "nothing_of_the_programs_own_is_called": """
import os, sys, threading, time
called = []
def never(*args, **kwargs):
    called.append(args)
    raise AssertionError("called")
keep = dict(vars(os))
for name in ("stat", "fstat", "lstat", "listdir", "scandir", "kill", "getpid", "read", "close", "unlink", "makedirs"):
    setattr(os, name, never)
for name in ("exists", "isdir", "abspath"):
    setattr(os.path, name, never)
for name in ("sleep", "time", "time_ns", "clock_gettime_ns", "monotonic"):
    setattr(time, name, never)
for number in range(6000):
    for fd in os.pipe():
        keep["close"](fd)
pid = os.fork()
if pid == 0:
    os.pipe()
    os._exit(len(called))
print(os.waitpid(pid, 0)[1], called)
""",
    "removing_a_tree": """
import os, shutil, tempfile
directory = tempfile.mkdtemp()
os.makedirs(directory + "/a/b/c")
open(directory + "/a/b/file", "w").close()
print(shutil.rmtree.avoids_symlink_attacks)
shutil.rmtree(directory)
print(os.path.exists(directory))
""",
    "own_descriptors_after_all_were_closed": """
import gc, os
gate = os.pipe()
pids = [os.fork() for _ in range(1)]
while pids[-1] and len(pids) < 30:
    pids.append(os.fork())
if not pids[-1]:
    os.close(gate[1])
    os.read(gate[0], 1)
    os._exit(0)
os.closerange(3, 4096)
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
def shown():
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in held]
print(held, shown(), {os.waitpid(pid, 0)[1] for pid in pids})
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        gc.collect()
        os._exit(shown() != ["/dev/null"] * 20)
    if os.waitpid(pid, 0)[1]:
        print("a child has lost some")
print(shown())
""",
    "children_of_all_sorts": """
import os, pty, subprocess, sys
code = '''
import os, sys
added = {'AMI_DIAG_TRACE', 'LC_CTYPE', 'PYTHONPATH' if sys.flags.ignore_environment else ''}
print(sorted(set(os.environ) - added), sys.path[1:])
'''
child = [sys.executable, "-c", code]
def show(*args, **kwargs):
    print(subprocess.run(*args, capture_output=True, text=True, **kwargs))
base = {"PATH": os.environ["PATH"]}
show(child)
show(child, env=base)
show(child, env={})
show(child, env={**os.environ, "PYTHONPATH": "/x"})
show(child, close_fds=False)
show(child, close_fds=False, env=base)
show(child, preexec_fn=lambda: os.environ.update(A="b"))
show([child[0], "-I", *child[1:]])
show("echo $0 $#", shell=True)
os.environ["PYTHONPATH"] = "/own:/two"
show(child)
print(os.environ["PYTHONPATH"], os.system("exit 3"))
del os.environ["PYTHONPATH"]
show(child)
for code in (
    f"import os; os.execv({sys.executable!r}, {child!r})",
    f"import os; os.execve({sys.executable!r}, {child!r}, dict(A='b'))",
    f"import os; os.execve(path={sys.executable!r}, argv={child!r}, env=os.environ)",
    f"import os; os.execvpe('python3', {child!r}, {{**os.environ, 'B': 'c'}})",
    f"import os; os.waitpid(os.posix_spawn({sys.executable!r}, {child!r}, os.environ), 0)",
    f"import os; os.waitpid(os.posix_spawn({sys.executable!r}, {child!r}, dict(A=b'b')), 0)",
    "import os; os.execv('/nowhere', ['x'])",
    "import os; os.execve('/nowhere', ['x'], 7)",
):
    show([sys.executable, "-c", code])
try:
    subprocess.run(["/nowhere"])
except OSError as error:
    print(error, error.filename)
try:
    subprocess.run(child, preexec_fn=lambda: 1 / 0)
except subprocess.SubprocessError as error:
    print(error)
""",
    "reading_from_code": """
import os, sys
def at_the_limit(depth=0):
    try:
        at_the_limit(depth + 1)
    except RecursionError:
        pass
    try:
        for fd in os.pipe():
            os.close(fd)
    except RecursionError:
        pass
    try:
        open("/nowhere")
    except (RecursionError, FileNotFoundError):
        pass
at_the_limit()
print(os.listdir("/proc/self/fd"))
""",
    "its_own_end": """
import atexit, os, sys, threading
class Late:
    def __del__(self, open=open, os_open=os.open, close=os.close, say=sys.__stdout__.buffer.raw.write):
        # What it needs is all here: by then the modules are gone.
        close(os_open("/dev/null", 0))
        open("/dev/null", "rb").close()
        try:
            os_open("/nowhere", 0)
        except OSError as error:
            say(b"late %d\\n" % error.errno)
late = Late()
sys.modules["late"] = Late()
atexit.register(lambda: open("/dev/null").close())
threading.Thread(target=lambda: [open("/dev/null").close() for _ in range(100)]).start()
print("end")
""",
}


@pytest.mark.parametrize("name", SAYS)
def test_it_says_the_same(every_python: Programs, name: str) -> None:
    """GIVEN a program that prints what it finds WHEN it is traced THEN it prints the same, and ends the same."""
    done = every_python.same(SAYS[name])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


WARNS = {
    "line_buffering": (
        "",
        """
import sys, warnings
warnings.simplefilter("default")
def f(): return open("/dev/null", "rb", 1)
def g(): return open("/dev/null", mode="rb", buffering=1)
for _ in range(3): f().close(); g().close()
with warnings.catch_warnings():
    warnings.filterwarnings("error", module="__main__")
    if sys.version_info >= (3, 11): f()
""",
    ),
    "encoding": ("-Xwarn_default_encoding", "open('/dev/null').close()\nopen('/dev/null', 'w').close()\n"),
    "fork_with_threads": (
        "-Wdefault",
        """
import os, subprocess, sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
pid, fd = os.forkpty()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
subprocess.run(["true"], preexec_fn=lambda: None)
""",
    ),
}


@pytest.mark.parametrize("name", WARNS)
def test_warnings_name_the_programs_line(every_python: Programs, name: str) -> None:
    option, code = WARNS[name]
    done = every_python.same(code, options=[option] if option else [])
    if name != "fork_with_threads":
        assert "program.py" in done.stderr
    assert "amidiag" not in done.stderr


FAILS = {
    "open": "def f(): return open('/nowhere')\nf()",
    "os_open": "import os\ntry:\n    os.open('/nowhere', 0)\nfinally:\n    print('out')",
    "argument": "import os\nos.pipe(1)",
    "opener": "def refuse(path, flags):\n    raise ValueError(path)\nopen('/dev/null', opener=refuse)",
    "opener_in_place": "def refuse(path, flags):\n    raise ValueError(path)\nopen('/dev/null', 'w', 1, opener=refuse)",
    "socket": "import socket\nsocket.socket(99, 99, 99)",
    "thread": "import threading\nt = threading.Thread(target=print)\nt.start()\nt.start()",
    "child": "import subprocess\nsubprocess.run(['/nowhere'])",
    "import": "import sys\nsys.modules['selectors'] = None\nimport socket",
    "interrupt": """
import os, signal, threading
threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
def f():
    while True: [os.close(fd) for fd in os.pipe()]
try:
    f()
except KeyboardInterrupt as error:
    trace = error.__traceback__
    while trace:
        print(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
""",
}


@pytest.mark.parametrize("name", FAILS)
def test_tracebacks_are_the_programs_own(every_python: Programs, name: str) -> None:
    """On 3.10 the frame of a hook cannot be taken out of a traceback."""
    bare = every_python.run(FAILS[name], traced=False)
    done = every_python.run(FAILS[name])
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (
        bare.returncode,
        bare.stderr.splitlines()[-1:],
    )
    if "3.10" not in every_python.python:
        assert done.stderr == bare.stderr
        assert "amidiag" not in done.stdout


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (["-I"], {}),
        (["-E"], {}),
        (["-S"], {}),
        (["-P"], {}),
        ([], {"PYTHONSAFEPATH": "1"}),
        ([], {"PYTHONPATH": ""}),
        ([], {"PYTHONPATH": ":/x:"}),
        ([], {"PYTHONPATH": "relative"}),
        ([], {"PYTHONNOUSERSITE": "1"}),
    ],
)
def test_pythons_options(programs: Programs, options: list[str], env: dict[str, str]) -> None:
    """Without `site` (-S) nothing hides what was added: all else finds what it would have found."""
    code = "import os, sys\nprint(sys.path, os.environ.get('PYTHONPATH'), sys.flags)\n"
    bare = programs.run(code, traced=False, options=options, env=env)
    done = programs.run(code, options=options, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    if options in (["-S"], ["-E"], ["-I"]):
        assert done.stdout.count("amidiag") <= 2
    else:
        assert done.stdout == bare.stdout


def test_its_own_sitecustomize_is_run_and_found(programs: Programs) -> None:
    own = programs.directory / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("print('customized')\nmark = 7\n")
    env = {"PYTHONPATH": str(own)}
    code = "import sitecustomize\nprint(sitecustomize.mark, sitecustomize.__file__)\n"
    assert programs.same(code, env=env).stdout.startswith("customized\n7 ")
    for broken in ("1 / 0", "import nothing_of_that_name"):
        (own / "sitecustomize.py").write_text(broken)
        programs.same("print('runs')", env=env)


def test_a_debugger_sees_the_programs_own_steps(programs: Programs) -> None:
    """What steps through our frames too (no way around that) finds the program's own as they were."""
    code = """
import os, sys, threading
seen = []
def trace(frame, event, arg):
    if frame.f_code.co_filename == __file__:
        seen.append((event, frame.f_lineno))
    return trace
def work():
    first = os.pipe()
    try:
        open("/nowhere")
    except OSError:
        pass
    return first
for switch in (sys.settrace, sys.setprofile):
    switch(trace)
    work()
    switch(None)
print([one for one in seen if one[0] in ("call", "line", "return", "exception")])
class Quit(Exception): pass
def quit_in(frame, event, arg):
    # As a debugger does, anywhere.
    steps[0] -= 1
    if steps[0] == 0:
        raise Quit
    return quit_in
caught = 0
for number in range(1, 120):
    steps = [number]
    sys.settrace(quit_in)
    try:
        os.pipe()
    except Quit:
        caught += 1
    finally:
        sys.settrace(None)
    if steps[0] <= 0:
        caught -= 1
print(caught)
os.closerange(3, 4096)
"""
    done = programs.same(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n0\n")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="written for frames as they are from 3.11 on")
def test_at_the_recursion_limit_only_that_error_comes(programs: Programs) -> None:
    """GIVEN no room for one more call WHEN a resource is made THEN it is made or RecursionError is raised, as
    one frame deeper it would be; and what was made is given."""
    code = """
import os, sys, _thread
amidiag = sys.modules["_amidiag_target.tracer"].TRACER
def down(room, results):
    if room:
        return down(room - 1, results)
    try:
        for fd in os.pipe():
            os.close(fd)
        results.append("made")
    except RecursionError:
        results.append("deep")
results = []
for limit in range(60, 90):
    before = sys.getrecursionlimit()
    for room in range(20, limit):
        sys.setrecursionlimit(limit)
        try:
            down(room, results)
        except RecursionError:
            pass
        finally:
            sys.setrecursionlimit(before)
print(set(results), len(os.listdir("/proc/self/fd")), amidiag.region.words[11] > 0)
"""
    done = programs.run(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'made'" in done.stdout and done.stdout.endswith(" True\n")
    assert done.stdout.split("} ")[1].split()[0] == "4"
