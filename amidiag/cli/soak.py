"""`amidiag soak`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from amidiag.cli.door import CommandError, Json, envelope, err, out, print_json
from amidiag.cli.options import Argument, Option
from amidiag.model import ExitCode, Finding, RecipeList

NAME = "soak"
EXAMPLES = """\b
Examples:
  amidiag soak quickstart                      a leak, and its end, in about two minutes
  amidiag soak issue-145-empty-polls --json    for a program
  amidiag soak ./my-recipe.toml --seed 7       your own recipe, another load
  amidiag soak quickstart --write-env .env     the settings that were found, into .env
Exit codes: 0 as the recipe expects, or nothing found; 1 a finding; 2 broken recipe;
3 the worker did not run; 4 undecided, more cycles needed."""


def command(
    recipe: Annotated[str, Argument(help="A recipe by name or by path; `list` names the shipped ones.")],
    seed: Annotated[int | None, Option(min=0, help="Another load than the recipe's own.")] = None,
    cycles: Annotated[
        int | None, Option(min=1, help="At most so many polls per arm, after its warm-up.")
    ] = None,
    keep: Annotated[Path | None, Option(help="Keep the worker's logs in this directory.")] = None,
    write_env: Annotated[
        Path | None, Option("--write-env", help="Write the settings of the mitigations into this file.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Run a real worker against an embedded Antenna server at compressed time, and judge what grows."""
    from amidiag.soak.recipe_file import shipped, title

    if recipe == "list":
        if as_json:
            print_json(envelope("soak list", ExitCode.CLEAN, data=RecipeList(shipped())))
        else:
            names = shipped()
            width = max(map(len, names), default=0)
            for name in names:
                out().print(f"{name:<{width}}  {title(name)}", soft_wrap=True)
        return ExitCode.CLEAN
    from amidiag.cli.soaking import run_recipe, soak_envelope
    from amidiag.report.soak_report import soak_report

    if write_env is not None and (write_env.is_dir() or not os.access(write_env.resolve().parent, os.W_OK)):
        # Before minutes of soak, not after them.
        raise CommandError(f"cannot write {write_env}: a directory, or not in a writable one", ExitCode.USAGE)
    result = run_recipe(recipe, seed, cycles, keep)
    report = soak_envelope(NAME, result, result.exit_code)
    if as_json:
        print_json(report)
    else:
        for part in soak_report(result):
            out().print(part)
    if write_env is not None:
        _write(write_env, report.findings)
    return result.exit_code


def _write(path: Path, findings: tuple[Finding, ...]) -> None:
    from amidiag.diagnosis.envfile import write_mitigations

    try:
        written = write_mitigations(path, findings)
    except (OSError, UnicodeDecodeError) as e:
        raise CommandError(f"the settings could not be written into {path}: {e}", ExitCode.USAGE) from e
    lines = ", ".join(f"{name}={value}" for name, value in written.items()) or "nothing: no setting was found"
    err().print(f"{path}: {lines}")
