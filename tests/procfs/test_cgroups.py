"""The binding memory cgroup: real ones of version 1 and 2 where this machine has them, and version 2 from files."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from procfs_targets import Spawn, run_program

from amidiag.model import CgroupMemory
from amidiag.procfs.cgroups import Membership, Place, cgroup_memory, parse_membership, read_memory
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.mount_table import leads_to_local, mount_at, parse_mount_table, read_mount_table

MIB = 1 << 20
GIB = 1 << 30
V1 = Path("/sys/fs/cgroup/memory")
UNIFIED = Path("/sys/fs/cgroup/unified")
ROOT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"

MakeCgroup = Callable[..., Path]


def can_make(hierarchy: Path) -> bool:
    return os.getuid() == 0 and (hierarchy / "cgroup.procs").exists() and os.access(hierarchy, os.W_OK)


@pytest.fixture
def make() -> Iterator[MakeCgroup]:
    """Makes real cgroups, `make(V1, "memory.limit_in_bytes", 64 * MIB)`, below the last one of the same hierarchy."""
    made: list[Path] = []

    def maker(hierarchy: Path, *settings: object) -> Path:
        above = [path for path in made if path.is_relative_to(hierarchy)]
        made.append((above or [hierarchy])[-1] / f"amidiag-{uuid.uuid4().hex[:8]}")
        made[-1].mkdir()
        for file, value in zip(settings[::2], settings[1::2], strict=True):
            (made[-1] / str(file)).write_text(str(value))
        return made[-1]

    yield maker
    for path in reversed(made):
        for pid in (path / "cgroup.procs").read_text().split():
            (path.parent / "cgroup.procs").write_text(pid)
        path.rmdir()


def name_in(hierarchy: Path, path: Path) -> str:
    return "/" + str(path.relative_to(hierarchy))


@pytest.mark.root
@pytest.mark.skipif(not can_make(V1), reason="needs a memory controller of cgroup v1 to make cgroups in")
def test_version_1_binds_where_least_room_is_left(spawn: Spawn, make: MakeCgroup) -> None:
    # GIVEN a process in a cgroup of 64 MiB, in one of 256 MiB, in one without a limit
    make(V1)
    middle = make(V1, "memory.limit_in_bytes", 256 * MIB)
    inner = make(V1, "memory.limit_in_bytes", 64 * MIB)
    target = spawn(["sleep", "1000"])
    (inner / "cgroup.procs").write_text(str(target.pid))
    # THEN the inner one binds, and its use is what the kernel says
    found = cgroup_memory(target.pid)
    assert found is not None
    assert (found.path, found.version, found.limit) == (name_in(V1, inner), 1, 64 * MIB)
    assert found.used is not None
    assert 0 <= found.used < 64 * MIB
    # WHEN the limits change places THEN the one above binds
    (inner / "memory.limit_in_bytes").write_text(str(128 * MIB))
    (middle / "memory.limit_in_bytes").write_text(str(32 * MIB))
    found = cgroup_memory(target.pid)
    assert found is not None
    assert (found.path, found.limit) == (name_in(V1, middle), 32 * MIB)
    # WHEN there is no limit on the way THEN its own use is still told
    for path in (middle, inner):
        (path / "memory.limit_in_bytes").write_text("-1")
    found = cgroup_memory(target.pid)
    assert found is not None
    assert (found.path, found.limit) == (name_in(V1, inner), None)
    assert found.used is not None


@pytest.mark.root
@pytest.mark.skipif(not (can_make(V1) and can_make(UNIFIED)), reason="needs both versions side by side")
def test_pressure_comes_from_version_2(spawn: Spawn, make: MakeCgroup) -> None:
    inner = make(V1, "memory.limit_in_bytes", 64 * MIB)
    target = spawn(["sleep", "1000"])
    (inner / "cgroup.procs").write_text(str(target.pid))
    # The root of version 2 says nothing of a cgroup of version 1.
    found = cgroup_memory(target.pid)
    assert found is not None
    assert found.pressure is None
    unified = make(UNIFIED)
    (unified / "cgroup.procs").write_text(str(target.pid))
    if not (unified / "memory.pressure").exists():
        pytest.skip("this kernel has no PSI for cgroups")
    found = cgroup_memory(target.pid)
    assert found is not None
    assert found.pressure is not None
    assert 0 <= found.pressure <= 1


@pytest.mark.root
@pytest.mark.skipif(not can_make(V1), reason="needs a memory controller of cgroup v1 to make cgroups in")
def test_from_inside_of_a_cgroup_namespace(make: MakeCgroup) -> None:
    # GIVEN a container: its own cgroup namespace with the hierarchy mounted anew
    inner = make(V1, "memory.limit_in_bytes", 1024 * MIB)
    mount = f"umount {V1} && mount -t cgroup -o memory none {V1}"
    seen = run_program(
        "surroundings_inside",
        inner / "cgroup.procs",
        "unshare",
        "-C",
        "-m",
        "sh",
        "-c",
        f'{mount} && exec "$@"',
        "sh",
    )
    # THEN inside it is the root that binds
    assert (seen["cgroup"]["path"], seen["cgroup"]["limit"]) == ("/", 1024 * MIB)


class V2:
    """A hierarchy of version 2 in plain files, with the mount table that leads there."""

    def __init__(self, directory: Path, root: str = "/") -> None:
        self.directory = directory
        point = str(directory).replace(" ", "\\040")
        line = f"30 27 0:26 {root} {point} rw - cgroup2 cgroup2 rw\n"
        self.place = Place("", parse_mount_table((ROOT + line).encode()))

    def add(self, path: str, **files: object) -> None:
        directory = self.directory / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (directory / f"memory.{name}").write_text(f"{value}\n")

    def read(self, path: str) -> CgroupMemory | None:
        membership = parse_membership(f"0::{path}\n".encode())
        assert membership == Membership(2, path, path)
        return read_memory(membership, [self.place])


PRESSURE = "some avg10=12.50 avg60=1.00 avg300=0.00 total=7\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=3"


def test_version_2_binds_where_least_room_is_left(tmp_path: Path) -> None:
    v2 = V2(tmp_path)
    v2.add("/pod", max=10 * GIB, current=10 * GIB - 5, pressure=PRESSURE)
    v2.add("/pod/a b", max=4 * GIB, current=1 * GIB, pressure="some avg10=0.00 avg60=0.00")
    v2.add("/pod/a b/leaf", max="max", current=1 * GIB)
    assert v2.read("/pod/a b/leaf") == CgroupMemory("/pod", 2, 10 * GIB, 10 * GIB - 5, 0.125)
    v2.add("/pod", current=2 * GIB)
    assert v2.read("/pod/a b/leaf") == CgroupMemory("/pod/a b", 2, 4 * GIB, 1 * GIB, 0.0)


def test_version_2_without_a_limit(tmp_path: Path) -> None:
    v2 = V2(tmp_path)
    v2.add("/user", max="max", current=9)
    v2.add("/user/session", max="max", current=7, pressure=PRESSURE)
    assert v2.read("/user/session") == CgroupMemory("/user/session", 2, None, 7, 0.125)
    # A cgroup for which the controller is not switched on is accounted for above.
    v2.add("/user/session/leaf")
    assert v2.read("/user/session/leaf") == CgroupMemory("/user/session", 2, None, 7, 0.125)


def test_version_2_as_a_container_has_it(tmp_path: Path) -> None:
    # GIVEN a mount of one cgroup only, without a namespace
    v2 = V2(tmp_path / "with space", root="/docker/4711")
    v2.add("/", max=GIB, current=3, pressure=PRESSURE)
    v2.add("/sub", max="max", current=2)
    # THEN the way begins there, and the names are whole
    assert v2.read("/docker/4711") == CgroupMemory("/docker/4711", 2, GIB, 3, 0.125)
    assert v2.read("/docker/4711/sub") == CgroupMemory("/docker/4711", 2, GIB, 3, 0.125)
    # What lies beside it cannot be walked to.
    for elsewhere in ("/docker/47115", "/docker", "/", "/..", "/docker/4711/../x"):
        assert v2.read(elsewhere) is None


def test_a_process_outside_of_the_namespace(tmp_path: Path) -> None:
    outside = V2(tmp_path, root="/../other")
    outside.add("/x", max=GIB, current=3)
    assert outside.read("/../other/x") == CgroupMemory("/../other/x", 2, GIB, 3, None)
    assert V2(tmp_path).read("/../x") is None


def test_a_removed_cgroup_and_none_at_all(tmp_path: Path) -> None:
    assert V2(tmp_path).read("/removed") is None
    assert parse_membership(b"0::/removed (deleted)\n") == Membership(2, "/removed", "/removed")
    assert parse_membership(b"") is None
    assert read_memory(Membership(2, "/", "/"), [Place("", parse_mount_table(ROOT.encode()))]) is None


def test_which_version_has_the_memory() -> None:
    assert parse_membership(b"4:cpu,memory:/a:b\n1:name=systemd:/s\n0::/u\n") == Membership(1, "/a:b", "/u")
    assert parse_membership(b"4:memory:/a\n") == Membership(1, "/a", None)
    assert parse_membership(b"4:cpu:/a\n0::/u\n") == Membership(2, "/u", "/u")


def test_a_hierarchy_behind_a_file_system_that_could_block_is_not_asked(tmp_path: Path) -> None:
    v2 = V2(tmp_path)
    v2.add("/a", max=1, current=1)
    blocking = (ROOT.replace("ext4", "nfs4") + f"30 27 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw\n").encode()
    assert read_memory(Membership(2, "/a", "/a"), [Place("", parse_mount_table(blocking))]) is None
    assert (
        read_memory(Membership(2, "/a", "/a"), [Place("", parse_mount_table(blocking)), v2.place]) is not None
    )


def test_paths_in_a_mount_table() -> None:
    table = read_mount_table(os.getpid())
    topmost = mount_at("/proc/self", table)
    assert topmost is not None
    assert (topmost.point, topmost.fs_type) == ("/proc", "proc")
    assert leads_to_local("/proc/meminfo", table)
    over = b"40 22 0:40 / /proc/meminfo rw - fuse.lxcfs lxcfs rw\n"
    assert not leads_to_local("/proc/meminfo", parse_mount_table(ROOT.encode() + over))
    # The mount that the reader itself runs from is trusted, whatever it is, and no other.
    diskless = parse_mount_table(ROOT.replace("ext4", "nfs4").encode())
    assert leads_to_local("/dev/shm", diskless, mount_at("/", diskless))
    assert not leads_to_local("/dev/shm", diskless, parse_mount_table(over)[0])
    assert mount_at("/x", []) is None
    assert not leads_to_local("/x", [])


def test_one_that_is_not_there() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessGone):
        cgroup_memory(gone.pid)
