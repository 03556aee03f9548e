# %% [markdown]
# # A network of your own, from the plain module to the verdict
#
# Quantize a torch module, train it against patches, export it as integers, attack it, and let the
# device's validator decide. It runs in under a minute on pictures that it draws itself; with
# `--data DIR` it takes `DIR/train/CLASS/IMAGE` and `DIR/test/CLASS/IMAGE`.

# %%
"""A network of your own, from the plain module to the verdict of the device's validator."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import qadtr

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, help="a folder of images (default: drawn ones)")
parser.add_argument("--size", type=int, default=32, help="side of its images in pixels")
parser.add_argument("--out", type=Path, default=Path("runs/own-network"))
parser.add_argument("--epochs", type=float, default=6)
given, _ = parser.parse_known_args()  # a notebook has words of its own


# %% [markdown]
# Images are uint8, N×C×H×W. Here a square of the picture is brighter, and the class is which.


# %%
def drawn(split: str, count: int) -> qadtr.ImageSet:
    """Noise of 24×36 px with one bright corner."""
    rng = np.random.default_rng(len(split))
    labels = np.arange(count) % 4
    images = rng.integers(0, 200, (count, 3, 24, 36)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 12 * (label // 2), 18 * (label % 2)
        image[:, top : top + 12, left : left + 18] += 25
    return qadtr.ImageSet.from_arrays(images, labels, ["nw", "ne", "sw", "se"], split=split)


if given.data is None:
    images = [drawn("train", 600), drawn("test", 200)]
else:
    splits = ("train", "holdout", "test")
    images = [qadtr.ImageSet.from_folder(given.data, one, size=given.size) for one in splits]


# %% [markdown]
# The module takes (byte / 255 - mean) / std and knows nothing of quantization.


# %%
class Own(nn.Module):
    """Convolutions, a squeeze and excitation, a linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.SiLU()),
            *(nn.Conv2d(12, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.pool, self.head = nn.AdaptiveAvgPool2d((2, 3)), nn.Linear(16 * 6, classes)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W to N×classes."""
        x = self.body(x)
        return self.head(self.pool(x * self.gate(x)).flatten(1))


def quantized(seed: int) -> qadtr.Network:
    """The module with drawn weights, as a network of codes."""
    torch.manual_seed(seed)
    module = Own(len(images[0].classes))
    example = torch.zeros(1, *images[0].images.shape[1:])
    mean, std = (0.3, 0.3, 0.3), (0.2, 0.2, 0.2)
    return qadtr.quantize(module, example, bits=(32, 8, 4), mean=mean, std=std, name="own")


network = quantized(seed=1)
print(network.report())

# %% [markdown]
# One set of weights for all bit-widths, trained with QADT-R; and an undefended network with another
# seed, whose patches the defended one has never seen.

# %%
settings = {"training.batch_size": 64, "training.learning_rate": 0.05, "data.augment": "none"}
defense = {"name": "qadtr", "sizes_px": ["3%"], "personal_px": "3%"}
defended = qadtr.train(
    network,
    images,
    given.out / "defended",
    epochs=given.epochs,
    defense=defense,
    settings=settings,
    overwrite=True,
)
source = qadtr.train(
    quantized(seed=2),
    images,
    given.out / "source",
    epochs=given.epochs,
    seed=2,
    settings=settings,
    overwrite=True,
)

# %% [markdown]
# An integer file for each bit-width: it takes its place after ONNX Runtime has run it with integer
# kernels throughout and every code was that of the numpy reference.

# %%
for model in qadtr.export(defended, bits=(8, 4)):
    print(f"{model.lowered.path}: {model.lowered.size_bytes:,} bytes")

# %%
patches = qadtr.make_patches(source, "lavan", size="8%", count=100, settings={"steps": 20})
results = qadtr.evaluate(defended, patches, latency=False)
for row in results.rows:
    print(f"{row.bits} bits: clean {row.clean:.1%}, ASR {row.asr:.1%}, noise {row.noise:.1%}")
results.to_csv(given.out / "results.csv")

# %% [markdown]
# One file for the device, and the validator that decides there: Python, numpy and onnxruntime.

# %%
bundle = given.out / "own.qadtr"
bundle.unlink(missing_ok=True)
qadtr.bundle(defended, bundle, bits=4, patches=patches, max_asr=0.5, max_drift=0.05)
validator = given.out / "validate.pyz"
subprocess.run([sys.executable, "-m", "qadtr", "validator", "--out", validator], check=True)
words = ["--json", given.out / "report.json", "--junit", given.out / "junit.xml"]
done = subprocess.run([sys.executable, "-I", validator, bundle, *words], check=False)
print("may ship" if done.returncode == 0 else f"may not ship: exit code {done.returncode}")
