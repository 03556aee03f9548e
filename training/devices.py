"""The torch device that was asked for, or why it is not to be had."""

from __future__ import annotations

import torch

from deploy.core.errors import EngineUnavailable


def torch_device(name: str) -> torch.device:
    """The device of that name, such as "cpu", "cuda" or "cuda:1", after a byte was put on it.

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
    """Until ``device`` has done what it was given, for a time that is taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
