"""Files as others make them, of networks of `pytorchcv`: for `python -m benchmarks.foreign_files`.

    python -m benchmarks.stock_brevitas --cifar10 DIR --out DIR [--networks …] [--ways …]

Nothing of this project's quantization is used. "graph" is Brevitas' own way from a float network
(`brevitas.graph.quantize`), 8 bits, calibrated; "layers" puts its QuantConv2d, QuantReLU and
QuantLinear in the place of torch's and quantizes nothing else, 4 bits; both are written by its
`export_qonnx`. "qdq" is torch's ONNX export through ONNX Runtime's `quantize_static`. "pynq" writes
Brevitas' own example networks for FINN, with drawn weights and statistics.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import brevitas.nn as qnn
import torch
from brevitas.export import export_qonnx
from brevitas.graph.calibrate import calibration_mode
from brevitas.graph.quantize import preprocess_for_quantize, quantize
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import Tensor, nn

from benchmarks.public_networks import CIFAR, MEAN, STD, public_module, settle
from benchmarks.records import parser_of
from deploy.core.scratch import Scratch
from training.data import load_images

BITS = 4
IMAGES = 256
CALIBRATION = 128
BATCH = 64


def by_graph(module: nn.Module, x: Tensor, path: Path) -> None:
    """Brevitas' quantization of a whole float network, to a QONNX file."""
    network = quantize(
        preprocess_for_quantize(module, equalize_iters=0, equalize_merge_bias=False)
    ).eval()
    with torch.no_grad(), calibration_mode(network):
        for part in x.split(BATCH):
            network(part)
    export_qonnx(network.eval(), x[:1], str(path))


def by_layers(module: nn.Module, x: Tensor, path: Path) -> None:
    """Brevitas' layers in the place of torch's, and a quantizer of the image, to a QONNX file."""
    _replace(module)
    network = nn.Sequential(qnn.QuantIdentity(bit_width=8), module).train()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    with torch.no_grad():  # its activation scales are statistics of what it sees
        for images in x.split(BATCH):
            network(images)
    export_qonnx(network.eval(), x[:1], str(path))


def _replace(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        bias = getattr(child, "bias", None) is not None
        if isinstance(child, nn.Conv2d):
            new: nn.Module = qnn.QuantConv2d(
                child.in_channels, child.out_channels, child.kernel_size, child.stride,
                child.padding, child.dilation, child.groups, bias=bias, weight_bit_width=BITS,
            )  # fmt: skip
        elif isinstance(child, nn.Linear):
            new = qnn.QuantLinear(
                child.in_features, child.out_features, bias=bias, weight_bit_width=8
            )
        elif isinstance(child, nn.ReLU):
            setattr(module, name, qnn.QuantReLU(bit_width=BITS))
            continue
        else:
            _replace(child)
            continue
        new.load_state_dict(child.state_dict(), strict=False)
        setattr(module, name, new)


class _Images(CalibrationDataReader):
    def __init__(self, x: Tensor) -> None:
        self._parts = iter(x.split(BATCH))

    def get_next(self) -> dict[str, object] | None:
        part = next(self._parts, None)
        return None if part is None else {"image": part.numpy()}


def by_static(module: nn.Module, x: Tensor, path: Path) -> None:
    """torch's export, then ONNX Runtime's quantization, to a Q/DQ file."""
    with Scratch() as folder:
        source = folder / "float.onnx"
        torch.onnx.export(
            module, (x[:1],), source, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}}, dynamo=False, opset_version=17,
        )  # fmt: skip
        quantize_static(
            source,
            path,
            _Images(x),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def by_example(name: str, path: Path) -> None:
    """One of Brevitas' examples, to a QONNX file."""
    torch.manual_seed(0)
    examples = importlib.import_module("brevitas_examples.bnn_pynq.models")
    network, config = examples.model_with_cfg(name, pretrained=False)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            for statistic in (part.running_mean, part.running_var):
                assert statistic is not None
                statistic.uniform_(0.5, 2.0)
            if part.affine:
                part.weight.data.uniform_(-1.0, 1.5)
                part.bias.data.normal_(0.0, 0.3)
    channels = config.getint("MODEL", "IN_CHANNELS")
    side = 28 if channels == 1 else 32
    export_qonnx(network.eval(), torch.rand(1, channels, side, side), str(path))


PYNQ = tuple(f"{network}_{bits}" for network in ("tfc", "cnv") for bits in ("1w1a", "1w2a", "2w2a"))
WAYS: Mapping[str, Callable[[nn.Module, Tensor, Path], None]] = {
    "graph": by_graph,
    "layers": by_layers,
    "qdq": by_static,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files that are missing, NETWORK-WAY.onnx."""
    parser = parser_of("stock_brevitas", __doc__, json=False)
    add = parser.add_argument
    add("--cifar10", type=Path, required=True, help="folder that holds cifar-10-batches-py")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--networks", nargs="+", choices=tuple(CIFAR), default=tuple(CIFAR))
    add("--ways", nargs="+", choices=(*WAYS, "pynq"), default=(*WAYS, "pynq"))
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = load_images("cifar10", arguments.cifar10, "holdout").images[:IMAGES]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    x = (torch.from_numpy(images[:CALIBRATION]).float() / 255.0 - mean) / std
    for name in PYNQ if "pynq" in arguments.ways else ():
        path = arguments.out / f"{name}.onnx"
        if not path.is_file():
            by_example(name, path)
            print(path, flush=True)
    for name in arguments.networks:
        for way in (one for one in arguments.ways if one in WAYS):
            path = arguments.out / f"{name}-{way}.onnx"
            if not path.is_file():
                module, _ = public_module(name)
                settle(module, images, BATCH)
                WAYS[way](module, x, path)
                print(path, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
