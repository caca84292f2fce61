"""Keeping the worker within its memory: the budget, what is really used, and how much may be in flight."""
