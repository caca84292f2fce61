"""`amidiag schema`."""

from __future__ import annotations

import json

from amidiag.cli.door import stdout

NAME = "schema"
EXAMPLES = "Example: amidiag schema > amidiag.schema.json"


def command() -> int:
    """Print the JSON Schema that every command's --json output satisfies."""
    from amidiag.report.json_schema import schema

    stdout().write(json.dumps(schema(), indent=1) + "\n")
    return 0
