"""The network that a training starts from, and what a continued training needs to know of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.core.errors import InputError
from deploy.core.files import sha256_of, sha256_of_bytes
from deploy.core.text import shape_in_words
from training.checkpoint import start_from
from training.config import TrainingConfig
from training.data import ImageSet
from training.network_spec import NetworkSpec
from training.quantize import Network
from training.quantize.build import build_network
from training.randomness import SETUP, generator_for
from training.run_start import RunStart
from training.tensors import persistent_tensors, tensor_bytes


@dataclass(frozen=True, kw_only=True)
class Starting:
    """A network before its first step.

    Attributes:
        network: on the CPU; the state of a run that continues has its weights.
        given: for a network in memory, its ``plan`` and the ``sha256`` of its tensors.
        warm_start_sha256: of the file that ``training.warm_start`` names; None where there is none.
        trained: whether its weights come from an earlier training.
    """

    network: Network
    given: Mapping[str, Any] | None
    warm_start_sha256: str | None
    trained: bool

    def identity(self) -> dict[str, Any]:
        """What distinguishes it from the start of another run of the same config."""
        found: dict[str, Any] = {}
        if self.given is not None:
            found["network"] = self.given.get("sha256")
        if self.warm_start_sha256 is not None:
            found["warm_start"] = self.warm_start_sha256
        return found


def starting_network(
    config: TrainingConfig,
    images: ImageSet,
    *,
    network: Network | None = None,
    start: RunStart | None = None,
    run_dir: Path = Path(),
) -> Starting:
    """Build what the config names, or copy the network in memory; then warm-start it.

    Args:
        config: of the training.
        images: of the training.
        network: in memory, left unchanged; None where the config names the network.
        start: of the run that continues; None for a new one.
        run_dir: its folder, for messages.

    Raises:
        InputError: the network does not fit these images or this config, or a file of weights does
            not fit the network.
    """
    settings = config.training
    channels, height, width = images.images.shape[1:]
    spec = NetworkSpec.of(config.network, classes=len(images.classes), image_size=(height, width))
    given: Mapping[str, Any] | None = None
    if network is not None:
        network = copy.deepcopy(network)
        digest = sha256_of_bytes(tensor_bytes(persistent_tensors(network), {}))
        given = {"plan": network.plan.to_json(), "sha256": digest}
    elif start is not None:
        network, given = start.built(spec, run_dir), start.network
    if network is None:
        network = build_network(
            spec,
            generator_for(config.seed, SETUP, "weights"),
            weights=Path(settings.weights) if settings.weights and start is None else None,
            channels=channels,
        )
    else:
        _require_fit(network, spec, channels)
    warm_start = None if start is None else start.warm_start_sha256
    if settings.warm_start is not None and warm_start is None:
        start_from(network, Path(settings.warm_start))
        warm_start = sha256_of(Path(settings.warm_start))
    return Starting(
        network=network,
        given=given,
        warm_start_sha256=warm_start,
        trained=bool(settings.warm_start or settings.weights or given),
    )


def _require_fit(network: Network, spec: NetworkSpec, channels: int) -> None:
    """Refuse a network that does not fit the images or the config of the training."""
    expected = (channels, *spec.image_size)
    if network.plan.input_shape != expected or network.plan.classes != spec.classes:
        shape, own = map(shape_in_words, (expected, network.plan.input_shape))
        raise InputError(
            f"the network takes images of {own} and gives {network.plan.classes} logits, but the "
            f"training images are {shape} in {spec.classes} classes; quantize it with an example "
            "of that shape"
        )
    if network.spec.settings != spec.settings:
        raise InputError("the config's [network] is not that of the network to be trained")
