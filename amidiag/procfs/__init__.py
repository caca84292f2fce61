"""What the kernel says of processes, read from `/proc`: identity, trees, FDs, peers, memory, limits.

Reads only, disturbs nothing. Standard library only, and light to import. `observe.observe_tree` is the
full look at a tree, `sampler.ProcessSampler` the cheap one for polling.
"""
