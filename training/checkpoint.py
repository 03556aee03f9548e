"""Checkpoints: weights in safetensors, everything else needed to build the network in JSON.

``NAME.safetensors`` holds every parameter, statistic and quantizer scale of the network, for all
bit-widths; ``NAME.json`` beside it the network's spec, the SHA-256 of the weights, the resolved
config, the history and the provenance.  Nothing in either is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from deploy.core.errors import InputError
from deploy.core.files import read_json, sha256_of, sha256_of_bytes, write_atomic, write_json
from training.networks import Network, NetworkSpec, build_network
from training.validated import as_json, read_settings

FORMAT = "qadtr-checkpoint"
FORMAT_VERSION = 1


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
    """Tensors and metadata of a safetensors file; ``InputError`` if it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; train one with: qadtr train CONFIG")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or no safetensors file: {error}") from error


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy ``tensors`` into ``module``; names, shapes and finite values are checked first.

    Raises:
        InputError: they are another network's, or NaN or infinite; ``source`` names them.
    """
    own = persistent_tensors(module)
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
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{source}: {name} has values that are NaN or infinite; train again")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def save_checkpoint(path: Path, network: Network, sidecar: Mapping[str, Any]) -> str:
    """Write ``path`` (.safetensors) and its sidecar; returns the SHA-256 of the weights.

    ``sidecar`` is plain data (classes, config, history, provenance) added to what is needed to
    build the network again.  The network must be :meth:`Network.for_evaluation`.
    """
    if network.training or not network.scales_stored:
        raise ValueError("saving a network needs network.for_evaluation() first")
    data = tensor_bytes(persistent_tensors(network), {"format": FORMAT})
    digest = sha256_of_bytes(data)
    write_atomic(path, data)
    write_json(
        path.with_suffix(".json"),
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "sha256": digest,
            "network": as_json(network.spec),
            **sidecar,
        },
    )
    return digest


def read_sidecar(path: Path) -> dict[str, Any]:
    """The sidecar of the checkpoint ``path`` (.safetensors), checked against the weights' hash.

    Raises:
        InputError: one of the two files is missing or damaged, or they do not belong together.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; train one with: qadtr train CONFIG")
    sidecar = read_json(path.with_suffix(".json"))
    if not isinstance(sidecar, dict) or sidecar.get("format") != FORMAT:
        raise InputError(f"{path.with_suffix('.json')} is no sidecar of a qadtr checkpoint")
    if sidecar.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path.with_suffix('.json')} has format version {sidecar.get('format_version')!r}; "
            f"this qadtr reads version {FORMAT_VERSION}"
        )
    if sidecar.get("sha256") != sha256_of(path):
        raise InputError(
            f"{path} is not the file that its sidecar describes (SHA-256 differs); "
            "copy both files again or train again"
        )
    return sidecar


def spec_of(sidecar: Mapping[str, Any], path: Path) -> NetworkSpec:
    """The network's specification in the sidecar of the checkpoint ``path``.

    Raises:
        InputError: it is damaged.
    """
    where = f"{path.with_suffix('.json')}: the network's spec is damaged"
    # What older checkpoints lack has the default that was the only way then.
    return read_settings(NetworkSpec, sidecar.get("network", {}), where)


def load_network(path: Path) -> Network:
    """The network of a checkpoint, in evaluation mode, at its widest bit-width.

    Raises:
        InputError: file or sidecar missing, damaged, of another network, or not finite.
    """
    spec = spec_of(read_sidecar(path), path)
    network = build_network(spec, torch.Generator().manual_seed(0))
    tensors, _ = read_tensors(path)
    load_tensors(network, tensors, str(path))
    network.scales_stored = True
    return network.eval()
