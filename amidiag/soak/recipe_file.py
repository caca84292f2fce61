"""Reading recipes from TOML: found by name or path, and checked before anything starts."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from amidiag.model import VerdictKind
from amidiag.soak.faults import NAMES
from amidiag.soak.recipe import Accept, Arm, Format, Load, Recipe, RecipeError, Server

CYCLE_KINDS = ("no_job", "empty_job", "active_job")
STOPS = ("verdict", "certificate", "load", "end")
_ACCEPT_SHARES = ("precision", "recall", "kind_accuracy")
_RESOURCE = re.compile(
    r"threads|children|shm\.held|memory\.(rss|anonymous)|fd(\.\w+(\.(self|tree|other|nobody|unknown))?)?"
    r"|tree\.(fd|threads|memory)"
)
_RESOURCES = (
    "fd, fd.TYPE, fd.pipe.PEER, threads, children, memory.rss, memory.anonymous, shm.held, tree.fd, tree.threads, "
    "tree.memory"
)
FORMATS: tuple[Format, ...] = get_args(Format)


def recipe_dirs() -> tuple[Path, ...]:
    """Where shipped recipes lie: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    return tuple(d for d in (package / "recipes", package.parent / "recipes") if d.is_dir())


def shipped() -> tuple[str, ...]:
    """The names of the shipped recipes, sorted."""
    return tuple(sorted({p.stem for d in recipe_dirs() for p in d.glob("*.toml")}))


def title(name: str) -> str:
    """What a shipped recipe says of itself in one line."""
    return str(tomllib.loads(find(name).read_text(encoding="utf-8"))["recipe"]["title"])


def find(name_or_path: str) -> Path:
    """The file of a recipe given by name or by path.

    Raises:
        RecipeError: there is none; the text names the nearest shipped recipe.
    """
    if os.sep in name_or_path or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if path.is_file():
            return path
        raise RecipeError(f"no recipe file {name_or_path}: the shipped ones are {', '.join(shipped())}")
    for directory in recipe_dirs():
        path = directory / f"{name_or_path}.toml"
        if path.is_file():
            return path
    near = difflib.get_close_matches(name_or_path, shipped(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"the shipped ones are {', '.join(shipped())}"
    raise RecipeError(f"no recipe named {name_or_path}: {hint}")


def load(name_or_path: str) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: it is missing, is no TOML, or has a wrong key or value.
    """
    path = find(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: not valid TOML: {e}") from e
    except OSError as e:
        raise RecipeError(f"{path}: cannot be read: {e.strerror}") from e
    return _Reader(path, text).recipe(data)


@dataclass(slots=True)
class _Table:
    """One TOML table while it is read: every key must be taken, or it is reported as unknown."""

    reader: _Reader
    name: str
    data: dict[str, Any]
    taken: set[str] = field(default_factory=set)

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None, what: str = "") -> Any:
        self.taken.add(key)
        if key not in self.data:
            if default is None:
                raise self.reader.error(self.name, None, f"the key {key} is missing")
            return default
        value = self.data[key]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in kinds)
            raise self.reader.error(self.name, key, f"must be {what or names}, not {value!r}")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        value: str = self.take(key, str, default)
        if value not in allowed:
            known = ", ".join(word for word in allowed if word)
            raise self.reader.error(self.name, key, f"must be one of {known}, not {value!r}")
        return value

    def number(self, key: str, low: float, high: float, default: float) -> float:
        value = float(self.take(key, (int, float), default))
        if not low <= value <= high:
            raise self.reader.error(self.name, key, f"must lie between {low:g} and {high:g}, not {value:g}")
        return value

    def count(self, key: str, default: int, low: int = 0, high: int = 10_000_000) -> int:
        value: int = self.take(key, int, default)
        if not low <= value <= high:
            raise self.reader.error(self.name, key, f"must lie between {low} and {high}, not {value}")
        return value

    def counts(self, key: str, default: list[int]) -> tuple[int, ...]:
        values: list[Any] = self.take(key, list, default)
        if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values):
            raise self.reader.error(self.name, key, f"must be a list of whole numbers from 1, not {values!r}")
        return tuple(values)

    def texts(
        self, key: str, default: list[str], allowed: tuple[str, ...] = (), *, least: int = 0
    ) -> tuple[str, ...]:
        values: list[Any] = self.take(key, list, default)
        if len(values) < least:
            raise self.reader.error(self.name, key, "must not be empty")
        for value in values:
            if not isinstance(value, str) or (allowed and value not in allowed):
                choice = f" out of {', '.join(allowed)}" if allowed else ""
                raise self.reader.error(self.name, key, f"must be a list of texts{choice}, not {values!r}")
        return tuple(values)

    def table(self, key: str, default: dict[str, Any] | None = None) -> _Table:
        data = self.take(key, dict, default, "a table")
        return _Table(self.reader, f"{self.name}.{key}" if self.name else key, data)

    def done(self) -> None:
        for key in self.data:
            if key not in self.taken:
                near = difflib.get_close_matches(key, self.taken, n=1)
                allowed = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(self.taken))}"
                raise self.reader.error(self.name, key, f"unknown key; {allowed}")


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.nth_arm = 0

    def error(self, table: str, key: str | None, what: str) -> RecipeError:
        place = ".".join(part for part in (table, key) if part) or "top level"
        return RecipeError(f"{self.path}:{self._line(table, key)}: {place}: {what}")

    def _line(self, table: str, key: str | None) -> int:
        # tomllib keeps no positions, so look for the key below its table's header, else for the header.
        here, header_at, arms = "", 1, -1
        for number, line in enumerate(self.text.splitlines(), 1):
            header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)
            if header:
                here = header[2]
                arms += header[1] == "[["
                if here == table and self._is_this_arm(here, arms):
                    header_at = number
            elif key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                if here == table and self._is_this_arm(here, arms):
                    return number
            elif table and re.match(rf"\s*{re.escape(table.rpartition('.')[2])}\s*=", line):
                # A table may also be written inline: `polls = {…}` in its parent.
                header_at = number
        return header_at

    def _is_this_arm(self, table: str, arms: int) -> bool:
        return table.partition(".")[0] != "arm" or arms == self.nth_arm

    def recipe(self, data: dict[str, Any]) -> Recipe:
        top = _Table(self, "", data)
        head = top.table("recipe")
        worker = top.table("worker", {})
        settings = self._settings(worker)
        faults = worker.texts("faults", [], NAMES)
        server = top.table("server", {})
        recipe = Recipe(
            name=head.take("name", str),
            path=str(self.path),
            title=head.take("title", str),
            about=head.take("about", str, ""),
            answers=head.take("answers", str, ""),
            answered_by=head.choice("answered_by", ("", *get_args(VerdictKind)), "") or None,  # type: ignore[arg-type]
            command=worker.texts("command", ["ami", "worker", "run"], least=1),
            load=self._load(top.table("load")),
            server=Server(
                server.number("visibility_timeout_s", 0.1, 86400, 30.0),
                server.count("max_deliver", 2, 1),
            ),
            accept=self._accept(top.table("accept", {})),
            arms=self._arms(top, settings, faults),
        )
        for table in (top, head, worker, server):
            table.done()
        return recipe

    def _settings(self, table: _Table) -> dict[str, str]:
        settings = table.table("settings", {})
        for key, value in settings.data.items():
            if not isinstance(value, (str, int, float, bool)):
                raise self.error(
                    settings.name, key, f"must be a text, a number or true or false, not {value!r}"
                )
        return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in settings.data.items()}

    def _load(self, table: _Table) -> Load:
        polls = table.table("polls", {"no_job": 1.0})
        shares = {kind: polls.number(kind, 0, 1, 0.0) for kind in CYCLE_KINDS}
        polls.done()
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise self.error(polls.name, None, f"the shares must add up to 1, not {sum(shares.values()):g}")
        sizes = table.take("sizes", list, [[640, 480]])
        if not sizes:
            raise self.error(table.name, "sizes", "must not be empty")
        for size in sizes:
            if not (
                isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
            ):
                raise self.error(table.name, "sizes", f"must be a list of [width, height], not {size!r}")
        load = Load(
            cycles=table.count("cycles", 1000, 1),
            warm_up=table.count("warm_up", 0),
            seed=table.count("seed", 0),
            shares=shares,
            jobs_per_poll=table.counts("jobs_per_poll", [1]),
            images_per_job=table.counts("images_per_job", [8]),
            sizes=tuple((w, h) for w, h in sizes),
            formats=table.texts("formats", ["jpeg"], FORMATS, least=1),  # type: ignore[arg-type]
            broken_share=table.number("broken_share", 0, 1, 0.0),
            distinct_images=table.count("distinct_images", 0),
            pipelines=table.texts("pipelines", ["moth_binary"], least=1),
        )
        table.done()
        return load

    def _accept(self, table: _Table) -> Accept:
        counts, shares = {}, {}
        for key in Accept.__dataclass_fields__:
            if key in table.data and key in _ACCEPT_SHARES:
                shares[key] = table.number(key, 0, 1, 0.0)
            elif key in table.data:
                counts[key] = table.count(key, 0)
        table.taken.update(Accept.__dataclass_fields__)
        table.done()
        return Accept(**counts, **shares)  # type: ignore[arg-type]

    def _arms(self, top: _Table, settings: dict[str, str], faults: tuple[str, ...]) -> tuple[Arm, ...]:
        entries = top.take("arm", list, [{"name": "worker"}])
        if not entries or not all(isinstance(entry, dict) for entry in entries):
            raise self.error("", "arm", "must be written as [[arm]], once per arm")
        return tuple(self._arm(data, nth, settings, faults) for nth, data in enumerate(entries))

    def _arm(self, data: dict[str, Any], nth: int, settings: dict[str, str], faults: tuple[str, ...]) -> Arm:
        self.nth_arm = nth
        table = _Table(self, "arm", data)
        expect = table.choice("expect", ("", *get_args(VerdictKind)), "")
        resource = self._resource("resource", table.take("resource", str, "fd"))
        stop = table.choice("stop", STOPS, "verdict")
        also_flat = tuple(self._resource("also_flat", r) for r in table.texts("also_flat", []))
        memory = table.count("memory_bytes_per_cycle", 0)
        for key in ("also_flat", "memory_bytes_per_cycle"):
            if key in data and stop != "end":
                raise self.error("arm", key, f'has a meaning only with stop = "end", not {stop!r}')
        arm = Arm(
            name=table.take("name", str),
            settings={**settings, **self._settings(table)},
            stop=stop,
            resource=resource,
            certificate_events_per_cycle=table.number("certificate_events_per_cycle", 1e-6, 1, 0.01),
            expect=expect or None,  # type: ignore[arg-type]
            faults=table.texts("faults", list(faults), NAMES),
            also_flat=also_flat,
            memory_bytes_per_cycle=memory if "memory_bytes_per_cycle" in data else None,
        )
        table.done()
        return arm

    def _resource(self, key: str, name: str) -> str:
        if not _RESOURCE.fullmatch(name):
            raise self.error("arm", key, f"must be one of {_RESOURCES}, not {name!r}")
        return name
