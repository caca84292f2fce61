"""An accelerator that is not there: pinning goes its usual way through the DataLoader, and copies memory."""

from __future__ import annotations

from typing import Any


def arm() -> str:
    """Make torch's DataLoader pin as on a host with an accelerator. Returns what was done, for people."""
    import torch

    if not hasattr(torch, "accelerator"):
        raise SystemExit(
            f"the fault emulated-accelerator needs torch 2.6 or later, this is {torch.__version__}"
        )
    if torch.accelerator.is_available():
        name = torch.accelerator.current_accelerator()
        return f"not needed: this host has an accelerator ({name})"

    def pinned_copy(tensor: torch.Tensor, device: Any = None) -> torch.Tensor:
        return tensor.clone()

    def no_device(device: Any) -> None:
        return None

    torch.accelerator.is_available = lambda: True
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.set_device_index = no_device
    torch.Tensor.pin_memory = pinned_copy  # type: ignore[assignment,method-assign]
    return "armed: an accelerator is emulated, so that pinning takes its usual way (this host has none)"
