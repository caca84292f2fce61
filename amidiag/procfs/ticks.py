"""The kernel's clock ticks, in which `/proc` gives the start of a process."""

import os

NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
