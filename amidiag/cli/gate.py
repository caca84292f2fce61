"""`amidiag gate`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from amidiag.cli.door import CommandError, Json, out, print_json, write_file
from amidiag.cli.options import Argument, Option

NAME = "gate"
EXAMPLES = """\b
Examples:
  amidiag gate polling-only                          for CI: exit code 0, 1 or 4
  amidiag gate polling-only --junit results.xml      with a report for the CI system
  amidiag gate ./worker.toml --undecided pass        lets "not enough cycles" through
A gate knows no expectations: the leak that a recipe such as quickstart is made to show fails it.
Exit codes: 0 no drift, 1 drift is proven, 2 broken recipe, 3 the worker did not run, 4 undecided."""


class Undecided(StrEnum):
    """What an undecided check means for the exit code."""

    PASS = "pass"
    FAIL = "fail"


def command(
    recipe: Annotated[str, Argument(help="A recipe by name or by path.")],
    junit: Annotated[Path | None, Option(help="Write a JUnit XML report to this file.")] = None,
    undecided: Annotated[
        Undecided, Option(help="Whether an arm's own resource may stay undecided (exit 0) or not (4).")
    ] = Undecided.FAIL,
    seed: Annotated[int | None, Option(min=0, help="Another load than the recipe's own.")] = None,
    cycles: Annotated[int | None, Option(min=1, help="At most so many polls per arm.")] = None,
    keep: Annotated[Path | None, Option(help="Keep the worker's logs in this directory.")] = None,
    as_json: Json = False,
) -> int:
    """Fail when a soak proves that FDs, shared memory, threads, children or memory drift."""
    from amidiag.cli.soaking import run_recipe, soak_envelope
    from amidiag.report.gate_report import cases, gate_report
    from amidiag.report.junit import junit_xml
    from amidiag.soak.gate import checks, gate_exit_code

    with _broken_until_it_ends(junit, recipe):
        result = run_recipe(recipe, seed, cycles, keep)
    found = checks(result)
    code = gate_exit_code(found, undecided_passes=undecided is Undecided.PASS)
    if junit is not None:
        write_file(junit, junit_xml(f"amidiag gate {result.recipe.name}", cases(found)))
    if as_json:
        print_json(soak_envelope(NAME, result, code, gate=found))
    else:
        for part in gate_report(result, found, code):
            out().print(part)
    return code


@contextlib.contextmanager
def _broken_until_it_ends(junit: Path | None, recipe: str) -> Iterator[None]:
    """Put a report that says `error` where the report will be, before minutes of soak and not after them.

    So a place that cannot be written to is refused at once, and whatever ends the soak (a worker
    that does not run, Ctrl-C, the out-of-memory killer, a full disk) no old, green report stays.

    Raises:
        CommandError: the report cannot be written.
    """
    if junit is None:
        yield
        return
    write_file(junit, _error_xml(recipe, "the soak did not end: it was killed, or still runs"))
    try:
        yield
    except BaseException as e:
        # A full disk may refuse the reason; what is there says `error` too.
        with contextlib.suppress(CommandError):
            write_file(junit, _error_xml(recipe, str(e) or type(e).__name__))
        raise


def _error_xml(recipe: str, text: str) -> str:
    from amidiag.report.junit import Case, junit_xml

    first = text.partition("\n")[0]
    return junit_xml(f"amidiag gate {Path(recipe).stem}", [Case("soak", "run", "error", first, text)])
