"""The project's networks by name, quantized: with freshly drawn weights, or for a checkpoint."""

from __future__ import annotations

import torch

from training.network_spec import NetworkSpec
from training.networks.initialise import initialise
from training.networks.registry import float_network
from training.quantize.network import Network
from training.quantize.planning import Planned, plan_of
from training.quantize.trace import trace


def planned_network(spec: NetworkSpec, generator: torch.Generator) -> Planned:
    """The plan of a network by name, and freshly drawn weights.

    Raises:
        InputError: an unknown network; names the known ones.
    """
    module = float_network(spec.name, classes=spec.classes, size=spec.input_size)
    initialise(module, generator)
    return plan_of(trace(module, torch.zeros(1, 3, spec.input_size, spec.input_size)))


def build_network(spec: NetworkSpec, generator: torch.Generator) -> Network:
    """A network by name with freshly drawn weights.

    Raises:
        InputError: an unknown network, or layer in ``spec.mixed``; names the known ones.
    """
    planned = planned_network(spec, generator)
    network = Network(spec, planned.plan)
    network.load_float(planned.tensors)
    return network
