"""The requested torch device, or the reason why it is not available."""

from __future__ import annotations

import torch

from deploy.core.errors import EngineUnavailable


def torch_device(name: str) -> torch.device:
    """The device of that name, such as "cpu", "cuda" or "cuda:1", checked by putting a byte on it.

    Raises:
        EngineUnavailable: no such device, or torch cannot use it here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=torch.uint8, device=device).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        here = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise EngineUnavailable(
            f"torch has no device {name!r} on this machine; available: {', '.join(here)}"
        ) from error
    return device


def wait_for(device: torch.device) -> None:
    """Wait until ``device`` has finished its queued work, so that a time can be taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
