"""Begins the witness in every Python program that is started with this directory on its PYTHONPATH."""

import fd_witness

fd_witness.begin()
