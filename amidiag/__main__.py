"""`python -m amidiag` is `amidiag`."""

from amidiag.cli.start import run

run()
