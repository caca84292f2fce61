"""The one JSON object that every command prints with `--json`."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, datetime
from typing import Any

from amidiag.model import Envelope


def now() -> str:
    """The time of a report: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def plain(value: Any) -> Any:
    """Data classes, mappings and tuples as JSON's own types; what is not a finite number becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def envelope_text(envelope: Envelope) -> str:
    """The envelope as indented JSON, `schema` first."""
    data = plain(envelope)
    return json.dumps({"schema": data.pop("schema"), **data}, indent=1, ensure_ascii=False)
