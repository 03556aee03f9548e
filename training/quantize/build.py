"""Networks by name, quantized: with freshly drawn weights, given ones, or for a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from deploy.core.errors import InputError
from deploy.core.images import CHANNELS
from training.network_spec import NetworkSpec
from training.networks.initialise import initialise
from training.networks.registry import NETWORKS, float_network
from training.quantize.network import Network
from training.quantize.planning import Planned, plan_of
from training.quantize.rewriting import Normalization, normalization_of
from training.quantize.trace import trace
from training.tensors import read_tensors, require_tensors_of


def planned(module: nn.Module, spec: NetworkSpec, channels: int = 3) -> Planned:
    """The plan of a float module as ``spec`` asks for it.

    Raises:
        Refused, InputError: as :func:`training.quantize.trace.trace`; the number of classes or
            channels differs from that in ``spec``.
    """
    example = torch.zeros(1, channels, *spec.image_size)
    normalization: Normalization | None = normalization_of(spec.mean, spec.std, channels=channels)
    found = plan_of(trace(module, example), normalization=normalization, wide=spec.wide)
    if found.plan.classes != spec.classes:
        raise InputError(
            f"the network {spec.name} gives {found.plan.classes} logits, but the images have "
            f"{spec.classes} classes"
        )
    return found


def build_network(
    spec: NetworkSpec,
    generator: torch.Generator,
    *,
    weights: Path | None = None,
    channels: int = 3,
) -> Network:
    """The network that ``spec`` names, with freshly drawn weights or given ones.

    Args:
        spec: of the network.
        generator: draws the weights of the project's own networks; any other module draws its
            weights from torch's global generator, seeded meanwhile with this generator's seed.
        weights: safetensors with the float module's ``state_dict``.
        channels: of the images, 3 or 1.

    Raises:
        InputError: an unknown network; an unknown layer in ``spec.mixed``; weights that do not fit
            the module; images that are not RGB for one of the project's networks; as
            :func:`planned`.
    """
    if spec.name in NETWORKS and channels != CHANNELS:
        raise InputError(
            f"{spec.name} takes images of {CHANNELS} channels, but these have {channels}; give "
            "your own network as package.module:callable"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        module = float_network(spec.name, classes=spec.classes, image_size=spec.image_size)
    if spec.name in NETWORKS:
        initialise(module, generator)
    if weights is not None:
        load_weights(module, weights)
    found = planned(module, spec, channels)
    network = Network(spec, found.plan)
    network.load_float(found.tensors)
    return network


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy the ``state_dict`` in a safetensors file into a float module.

    Raises:
        InputError: the file is missing or damaged, or belongs to another module; the message names
            what differs.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; save one with safetensors.torch.save_file")
    tensors, _ = read_tensors(path)
    own = module.state_dict()
    for counter in {name for name in own if name.endswith("num_batches_tracked")} - set(tensors):
        del own[counter]  # older files lack them, and nothing that is kept needs them
    require_tensors_of(own, tensors, str(path))
    module.load_state_dict(tensors, strict=False)
