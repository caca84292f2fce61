"""Faults at seeded random moments: what a worker does when something is done to it while it works.

Only the soak and the benchmarks use it; everything is done to workers that it has started itself.
"""
