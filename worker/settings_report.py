"""The settings told to people and programs: a table, rows for JSON, and the text of `.env.example`."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import SecretStr

from amidiag import model
from amidiag.model import SettingEntry, SettingsData
from worker.settings import Loaded, WorkerSettings, allowed, env_name, fields, is_secret

MASK = "********"
ENV_EXAMPLE_HEAD = """\
# Every setting of `ami worker`, with its default. Copy this file to .env in the directory in which the worker
# starts, and remove the # of what you change. A variable of the environment wins over this file.
# Written by `ami worker settings --env-example`.
"""


def rows(loaded: Loaded) -> tuple[SettingEntry, ...]:
    """One row per setting. Secrets are masked."""
    values = loaded.settings.model_dump()
    return tuple(
        SettingEntry(
            name=env_name(field),
            value=_shown(values[field]),
            default=_shown(info.default),
            source=loaded.sources[env_name(field)],
            allowed=allowed(info),
            doc=info.description or "",
            secret=is_secret(info),
        )
        for field, info in WorkerSettings.model_fields.items()
    )


def data(loaded: Loaded) -> SettingsData:
    """What `ami worker settings --json` puts under `data`."""
    unknown = tuple(model.UnknownSetting(u.name, u.nearest, u.source) for u in loaded.unknown)
    return SettingsData(settings=rows(loaded), unused=tuple(loaded.unused), unknown=unknown)


def table(loaded: Loaded) -> str:
    """The settings for people, one paragraph each."""
    lines = []
    for row in rows(loaded):
        lines.append(f"{row.name}={as_text(row.value)}   ({row.source})")
        lines.extend(textwrap.wrap(f"{row.doc} Must be {row.allowed}.", 100, **_INDENT))
    return "\n".join(lines)


def remarks(loaded: Loaded) -> list[str]:
    """One line for what is known but unused, and one for each variable that nobody reads."""
    unused = [f"known, but without use in this worker: {', '.join(loaded.unused)}"] if loaded.unused else []
    return unused + [str(u) for u in loaded.unknown]


def in_effect(loaded: Loaded) -> str:
    """What is set otherwise than by default, and where, in one line for the log."""
    changed = [row for row in rows(loaded) if row.source != "default"]
    said = [f"{row.name}={as_text(row.value)} ({row.source})" for row in changed]
    return f"settings: {', '.join(said) or 'the defaults'}"


def env_example() -> str:
    """The text of `.env.example`: every setting, documented, commented out at its default."""
    parts = [ENV_EXAMPLE_HEAD]
    for name, info in fields().items():
        doc = textwrap.wrap(f"{info.description} Must be {allowed(info)}.", 108)
        parts.append("\n".join([*(f"# {line}" for line in doc), f"#{name}={_example(info.default)}", ""]))
    return "\n".join(parts)


def as_text(value: Any) -> str:
    """A value as it is written in a `.env` file; None, the automatic choice, is `auto`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "auto" if value is None else str(value)


_INDENT: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    "}


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    return value


def _example(default: Any) -> str:
    text = as_text(_shown(default))
    return f'"{text}"' if " " in text else text
