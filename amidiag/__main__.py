"""`python -m amidiag` is `amidiag`."""

from amidiag.cli.main import run

run()
