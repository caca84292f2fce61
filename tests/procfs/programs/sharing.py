"""Puts tensors of ARGV[1] MiB into shared memory, one after the other, by torch's default strategy."""

import sys

import torch

SIZE = int(sys.argv[1]) << 20
while True:
    torch.empty(SIZE, dtype=torch.uint8).share_memory_()
