"""What torch's errors say of the device: too little memory for now, or broken for good."""

from __future__ import annotations

import ctypes
import gc

import torch

_NO_MEMORY = ("out of memory", "_STATUS_ALLOC_FAILED")
_OF_DEVICE = ("CUDA error", "HIP error", "cuDNN error", "device-side assert")


class DeviceError(Exception):
    """The device does not work any more in this process. Only a new process helps: the worker ends with 70."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory.

    Not a MemoryError or the like of the host: smaller passes make no difference there, as the images are already
    in its memory, and the memory budget bounds them.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # The driver and cuBLAS say it in their own words.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def device_error(error: BaseException) -> DeviceError | None:
    """The `DeviceError` that `error` amounts to, or None where the device still works.

    After some errors (a failed assert, an access outside of memory) every later call fails too, until the process
    ends. Which of them those are its text does not say: so the device is tried.
    """
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return None
    text = str(error)
    if not any(words in text for words in _OF_DEVICE) or _works():
        return None
    return DeviceError(f"the GPU does not work any more: {type(error).__name__}: {text.splitlines()[0]}")


def _works() -> bool:
    """Whether the accelerator calculates. False too where there is none any more: it fell off the bus."""
    try:
        return bool(torch.ones(1, device="cuda").add(1).item() == 2)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not work
        return False


def empty_device_cache() -> None:
    """Give what torch keeps of the device's memory and does not use back to the driver."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def give_back_memory() -> None:
    """Give what has been dropped back: to the device's driver, and to the system. Takes some 0.1 s."""
    # A network from a file may hold itself in a circle.
    gc.collect()
    empty_device_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)
