"""Start a training from the weights of another run, such as a float network's."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from deploy.core.errors import InputError
from training.checkpoint import persistent_tensors, read_sidecar, read_tensors, spec_of
from training.networks import Network
from training.quantizers import FLOAT

_NORM = re.compile(r"(?P<before>.*\bnorms\.)(?P<bits>\d+)(?P<after>\..*)")


@torch.no_grad()
def start_from(network: Network, checkpoint: Path) -> None:
    """Copy the weights of ``checkpoint`` (.safetensors with its sidecar) into ``network``.

    Convolutions, linear layer and biases are taken as they are.  A BatchNorm takes that of the
    same bit-width, or the float one where the other network has not that bit-width.  Activation
    scales are taken for shared bit-widths; the others are set from the first batch, as ever.  The
    image size may be another one: a network trained on small images is a cheap start for large
    ones, where its layers fit.

    Raises:
        InputError: no such checkpoint, a damaged one, or one of another architecture or number of
            classes; one without the needed BatchNorm, or with layers of other shapes.
    """
    held, spec = spec_of(read_sidecar(checkpoint), checkpoint), network.spec
    if (held.name, held.classes) != (spec.name, spec.classes):
        raise InputError(
            f"training.warm_start: {checkpoint} holds {held.name!r} with {held.classes} classes, "
            f"this run needs {spec.name!r} with {spec.classes}; train a float network of the same "
            "name and classes first"
        )
    tensors, _ = read_tensors(checkpoint)
    for name, own in persistent_tensors(network).items():
        source = tensors.get(name)
        norm = _NORM.fullmatch(name)
        if source is None and norm:
            source = tensors.get(f"{norm['before']}{FLOAT}{norm['after']}")
        if source is None and re.search(r"(scale|ready)_\d+$", name):
            continue
        if source is None or source.shape != own.shape:
            raise InputError(
                f"training.warm_start: {checkpoint} has nothing that fits {name}; it needs a "
                f"network trained at 32 bits or at all of {', '.join(map(str, spec.bit_widths))}"
            )
        own.copy_(source)
