"""Checkpoints: weights in safetensors, everything else needed to build the network in JSON.

``NAME.safetensors`` holds every parameter, statistic and quantizer scale of the network, for all
bit-widths.  ``NAME.json`` in the same folder holds the network's spec and plan, the SHA-256 of the
weights, the resolved config, the history and the provenance.  Nothing in either is executed when it
is read, and the code of the float network is not needed.

Version 1 had no plan: its networks are the project's own, by name, with different tensor names.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from typing_extensions import TypedDict

from deploy.core.errors import InputError
from deploy.core.files import sha256_of, sha256_of_bytes, write_atomic
from deploy.core.strict_json import parse_json, read_json, write_json
from training.course import Course
from training.network_spec import FLOAT, NetworkSpec
from training.networks.registry import NETWORKS, float_network
from training.quantize import Network
from training.quantize.build import planned
from training.quantize.plan_file import read_plan
from training.tensors import load_tensors, persistent_tensors, read_tensors, tensor_bytes
from training.validated import AtLeast0, as_json, read_settings

CHECKPOINT = "checkpoint.safetensors"
"""Name of a run's checkpoint in its folder."""

RESUME = Path("resume") / "state.safetensors"
"""What a run continues from, in its folder: tensors, step and history in one atomic file."""

_STATE = "run_state"
"""The state's entry in its file's metadata: a JSON object."""

FORMAT = "qadtr-checkpoint"
FORMAT_VERSION = 2

_SINCE_VERSION_1 = (
    (re.compile(r"^stem\."), "layers.stem."),
    (re.compile(r"^head\.linear\."), "layers.linear.linear."),
    (re.compile(r"^head\.bias"), "layers.linear.bias"),
    (re.compile(r"^blocks\.(\d+)\.(conv|norm|output)\."), r"layers.conv\1.\2."),
    (re.compile(r"^blocks\.(\d+)\.unit\."), r"layers.conv\1."),
    (re.compile(r"^blocks\.(\d+)\.([a-z]+)\."), r"layers.block\1/\2."),
)
"""What tensors were called in version 1, and are now."""

_NORM = re.compile(r"(?P<before>.*\bnorms\.)(?P<bits>\d+)(?P<after>\..*)")


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
            "plan": network.plan.to_json(),
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
        if (path.parent / RESUME).is_file():
            raise InputError(
                f"there is no checkpoint {path} yet, because its training was interrupted; "
                "continue it with: "
                f"{shlex.join(['qadtr', 'train', '--resume', '--out', str(path.parent)])}"
            )
        raise InputError(f"there is no checkpoint {path}; train one with: qadtr train CONFIG")
    sidecar = read_json(path.with_suffix(".json"))
    if not isinstance(sidecar, dict) or sidecar.get("format") != FORMAT:
        raise InputError(f"{path.with_suffix('.json')} is not a sidecar of a qadtr checkpoint")
    if sidecar.get("format_version") not in (1, FORMAT_VERSION):
        raise InputError(
            f"{path.with_suffix('.json')} has format version {sidecar.get('format_version')!r}, "
            f"but this qadtr reads versions 1 and {FORMAT_VERSION}"
        )
    if sidecar.get("sha256") != sha256_of(path):
        raise InputError(
            f"{path} is not the file that its sidecar describes, because the SHA-256 differs; "
            "copy both files again or train again"
        )
    return sidecar


def spec_of(sidecar: Mapping[str, Any], path: Path) -> NetworkSpec:
    """The network's specification in the sidecar of the checkpoint ``path``.

    Raises:
        InputError: it is damaged.
    """
    where = f"{path.with_suffix('.json')}: the network's spec is damaged"
    # A setting that older checkpoints lack gets its default, the only choice at that time.
    return read_settings(NetworkSpec, sidecar.get("network", {}), where)


def tensors_of(path: Path, sidecar: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the checkpoint ``path`` by their current names in a network.

    Raises:
        InputError: as :func:`read_tensors`.
    """
    tensors, _ = read_tensors(path)
    if sidecar["format_version"] != 1:
        return tensors
    return {_name_since_version_1(name): tensor for name, tensor in tensors.items()}


def _name_since_version_1(name: str) -> str:
    for pattern, now in _SINCE_VERSION_1:
        name = pattern.sub(now, name)
    return name


def _require_named_network(network: Network, path: Path) -> None:
    """Refuse a plan whose convolutions are not those of the network that the sidecar names.

    Only the project's own networks are compared: reading a file runs no user code.
    """
    spec = network.spec
    if spec.name not in NETWORKS:
        return
    with torch.device("meta"):
        named = float_network(spec.name, classes=spec.classes, image_size=spec.image_size)
    expected, found = (
        sorted(tuple(weight.shape) for weight in module.parameters() if weight.dim() == 4)
        for module in (named, network)
    )
    if expected != found:
        raise InputError(
            f"the plan of {path} belongs to another network than {spec.name}: "
            "the shapes of the convolutions differ"
        )


def load_network(path: Path) -> Network:
    """The network of a checkpoint, in evaluation mode, at its widest bit-width.

    Raises:
        InputError: the file or sidecar is missing or damaged, belongs to another network, or holds
            values that are not finite.
    """
    sidecar = read_sidecar(path)
    spec = spec_of(sidecar, path)
    if sidecar["format_version"] == 1:
        try:
            module = float_network(spec.name, classes=spec.classes, image_size=spec.image_size)
        except InputError as error:
            raise InputError(f"{path.with_suffix('.json')}: {error}") from error
        plan = planned(module, spec).plan
    else:
        plan = read_plan(sidecar.get("plan"), f"{path.with_suffix('.json')}: plan")
    if plan.classes != spec.classes:
        raise InputError(
            f"{path.with_suffix('.json')} is damaged: its network has {spec.classes} classes, "
            f"but its plan has {plan.classes}"
        )
    network = Network(spec, plan)
    load_tensors(network, tensors_of(path, sidecar), str(path))
    _require_named_network(network, path)
    network.scales_stored = True
    return network.eval()


@torch.no_grad()
def start_from(network: Network, checkpoint: Path) -> None:
    """Copy the weights of ``checkpoint`` (.safetensors with its sidecar) into ``network``.

    Convolutions, linear layer and biases are copied unchanged.  A BatchNorm takes the one of the
    same bit-width, or the float one where the other network does not have that bit-width.
    Activation scales are taken for shared bit-widths; the others are set from the first batch, as
    usual.  The image size may differ: a network trained on small images is a cheap start for large
    ones, where its layers fit.

    Raises:
        InputError: no such checkpoint, a damaged one, or one of another architecture or number of
            classes; one without the needed BatchNorm, or with layers of other shapes.
    """
    sidecar = read_sidecar(checkpoint)
    held, spec = spec_of(sidecar, checkpoint), network.spec
    if (held.name, held.classes) != (spec.name, spec.classes):
        raise InputError(
            f"training.warm_start: {checkpoint} holds {held.name!r} with {held.classes} classes, "
            f"but this run needs {spec.name!r} with {spec.classes}; train a float network of the "
            "same name and classes first"
        )
    tensors = tensors_of(checkpoint, sidecar)
    for name, own in persistent_tensors(network).items():
        source = tensors.get(name)
        norm = _NORM.fullmatch(name)
        if source is None and norm:
            source = tensors.get(f"{norm['before']}{FLOAT}{norm['after']}")
        if source is None and re.search(r"(scale|ready)_\d+$", name):
            continue
        if source is None or source.shape != own.shape:
            raise InputError(
                f"training.warm_start: {checkpoint} has no weights that fit {name}; give a "
                f"network trained at 32 bits or at all of {', '.join(map(str, spec.bit_widths))}"
            )
        own.copy_(source)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run after ``step`` steps.

    Attributes:
        run: digest of the run's configuration and images.
        step: steps taken.
        course: the history, and the sums for its next row.
        tensors: by the part's name, a dot, and the tensor's own name in that part.
    """

    run: str
    step: int
    course: Course
    tensors: dict[str, Tensor]

    def of(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part by their own names."""
        start = f"{part}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}

    def write(self, folder: Path) -> None:
        """Write it into the run's folder; the old state stays intact until the new one is whole."""
        facts = as_json({"run": self.run, "step": self.step, "course": self.course})
        # One entry: safetensors writes several in an order that changes from call to call.
        metadata = {_STATE: json.dumps(facts)}
        write_atomic(folder / RESUME, tensor_bytes(self.tensors, metadata))


class _StateFacts(TypedDict):
    """The metadata of a state."""

    run: str
    step: AtLeast0
    course: Course


def read_run_state(folder: Path, run: str) -> RunState:
    """The state in the run's folder.

    Raises:
        InputError: there is none, it is damaged, or it belongs to another run.
    """
    path = folder / RESUME
    if not path.is_file():
        raise InputError(f"nothing to resume: there is no {path}; train without --resume")
    tensors, metadata = read_tensors(path)
    if _STATE in metadata:
        facts = parse_json(metadata[_STATE].encode(), str(path))
    else:  # an older state, without the sums of an interrupted epoch
        facts = {
            "run": metadata.get("run"),
            "step": parse_json(metadata.get("step", "").encode(), str(path)),
            "course": {"history": parse_json(metadata.get("history", "").encode(), str(path))},
        }
    read: _StateFacts = read_settings(_StateFacts, cast(Any, facts), str(path))
    if read["run"] != run:
        raise InputError(
            f"{path} belongs to a run with another config, other images or another number of "
            "processes, or to a version of qadtr with other settings; resume it with that "
            "version and as it was started, or train without --resume"
        )
    return RunState(run=run, step=read["step"], course=read["course"], tensors=tensors)
