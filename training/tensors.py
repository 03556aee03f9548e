"""The tensors of a module: named, read from and written to safetensors, checked, copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deploy.core.errors import InputError


def persistent_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The module's parameters and persistent buffers, each once (a scale that several quantizers
    share appears under its first name)."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of ``tensors`` (moved to the CPU, made contiguous)."""
    plain = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}
    return save(plain, dict(metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: it is damaged, or it is a pickle, which could run code and is not read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        if path.is_file() and _is_pickled(path):
            raise InputError(
                f"{path} is a pickle, as torch.save writes it, and is not read, because a pickle "
                "can run any code; convert the state_dict once: "
                f"safetensors.torch.save_file(torch.load({str(path)!r}, weights_only=True), "
                f"{str(path.with_suffix('.safetensors'))!r})"
            ) from error
        raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error


def _is_pickled(path: Path) -> bool:
    """Whether a file is a zip archive, which torch writes, or a pickle of protocol 2 to 5; the
    header of a safetensors file, after its 8 bytes of length, begins with a brace."""
    with path.open("rb") as file:
        start = file.read(9)
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return start.startswith(b"PK\3\4") or (pickled and start[8:] != b"{")


def require_tensors_of(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str
) -> None:
    """Refuse ``tensors`` that are not, by names and shapes, those of ``own``, or not finite.

    Raises:
        InputError: they belong to another network, or are NaN or infinite; ``source`` names them.
    """
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    if missing or unknown:
        first = f"it lacks {missing[0]!r}" if missing else f"it has the unknown {unknown[0]!r}"
        raise InputError(
            f"{source} belongs to another network: {first} "
            f"({len(missing)} tensors missing, {len(unknown)} unknown)"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{source} belongs to another network: {name} has shape {tuple(tensor.shape)}, "
                f"expected {tuple(own[name].shape)}"
            )
        # This also covers types that isfinite does not support, such as 8-bit floats.
        if tensor.is_floating_point() and not bool(tensor.double().isfinite().all()):
            raise InputError(f"{source}: {name} has values that are NaN or infinite; train again")


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy ``tensors`` into ``module``; names, shapes and finite values are checked first.

    Raises:
        InputError: as :func:`require_tensors_of`.
    """
    own = persistent_tensors(module)
    require_tensors_of(own, tensors, source)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
