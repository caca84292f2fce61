"""What an ended process left: everything that it made and that is not known to be closed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from amidiag.attach.old_tables import iso
from amidiag.attach.trace_reading import Opened, TraceReading
from amidiag.attach.trace_region import INODE_OF, Made, Region
from amidiag.attach.trace_table import Table, read_table
from amidiag.attach.traced_process import books
from amidiag.target.trace_layout import BY_ADDRESS, BY_INODE

# Where the way in which it was made does not say the type of the FD. `file` is what `open` may give: anything.
_TYPE_OF_KIND = {"terminal": "device", "storage": "shm"}
# Each of these is on a device of its own, by which a received FD is known for what it is.
_BY_DEVICE = frozenset(("pipe", "socket", "memfd", "shm"))


def read_post_mortem(path: str, of: int | None = None) -> TraceReading:
    """All records of a table, those of its maker's forked children too; or only those `of` one of these.

    Raises:
        BadTableError: not believed, another version, cut off, damaged.
        OSError: it cannot be opened or read.
    """
    table = read_table(path)
    if of is not None:
        table = replace(table, regions=tuple(region for region in table.regions if region.pid == of))
    records = [(region, region.made(slot)) for region in table.regions for slot in region.slots]
    devices = {m.device: m.kind for _, m in records if m.kind in _BY_DEVICE and m.keyed == BY_INODE}
    opened = [_opened(region, made, devices) for region, made in records]
    opened += _forked(table)
    return TraceReading(
        alive=False,
        file=path,
        opened=tuple(opened),
        processes=tuple(
            books(region.pid, [region], 0 if region.number else table.untraced_forks)
            for region in table.regions
        ),
        notes=tuple(_notes(table)),
        boot_id=table.boot_id,
        at=max((made.boottime_ns for _, made in records), default=0),
    )


def _opened(region: Region, made: Made, devices: dict[int, str]) -> Opened:
    kind = _TYPE_OF_KIND.get(made.kind, made.kind)
    if kind == "received":
        kind = devices.get(made.device, kind)
    fd = made.fd if made.fd >= 0 else None
    if made.keyed == BY_ADDRESS:
        return Opened(region.pid, kind, fd, (made.extra,), None, made)
    key = (made.inode,) if kind in ("thread", "process") else (made.device, made.inode)
    return Opened(region.pid, kind, fd, key, None, made)


def _forked(table: Table) -> Iterator[Opened]:
    """The children whose start only their own region tells."""
    by_key = {(region.pid, region.claimed): region for region in table.regions}
    noted = {slot[INODE_OF] for region in table.regions for slot in region.started}
    for region in table.regions:
        above = by_key.get(region.parent) if region.parent else None
        if above is not None and region.pid not in noted:
            yield Opened(above.pid, "process", None, (region.pid,), None, region.forked_by(above))


def _notes(table: Table) -> Iterator[str]:
    yield (
        "what was closed is not written down when it happens: these are all that were made and not known to be "
        "closed when the table was last swept, and all since; of a pipe one record stands for both ends."
    )
    for region in table.regions:
        who = f"PID {region.pid}"
        if region.swept_at:
            yield f"{who}: what was closed was last taken out {_at(region, region.swept_at)}."
        elif region.slots or region.number == 0:
            yield f"{who}: nothing that it closed was taken out yet: that comes with thousands, and at EMFILE."


def _at(region: Region, boottime_ns: int) -> str:
    return iso((boottime_ns + region.realtime) / 1e9)
