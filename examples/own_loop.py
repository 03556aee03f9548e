# %% [markdown]
# # A training loop of your own, with A-QAPA's patches in it
#
# Your optimizer, your loss, your batches; the defense switches the bit-width, patches part of each
# batch and improves its patches with the gradients that the step has anyway. It runs in under a
# minute on pictures that it draws itself; with `--data DIR` it takes `DIR/train/CLASS/IMAGE` and
# `DIR/test/CLASS/IMAGE`.

# %%
"""A training loop of your own, with A-QAPA's patches in it, to the verdict of the validator."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import qadtr

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path, help="a folder of images (default: drawn ones)")
parser.add_argument("--size", type=int, default=32, help="side of its images in pixels")
parser.add_argument("--out", type=Path, default=Path("runs/own-loop"))
parser.add_argument("--steps", type=int, default=90)
given, _ = parser.parse_known_args()  # a notebook has words of its own


# %%
def drawn(split: str, count: int) -> qadtr.ImageSet:
    """Noise of 24×36 px with one bright corner, which is the class."""
    rng = np.random.default_rng(len(split))
    labels = np.arange(count) % 4
    images = rng.integers(0, 200, (count, 3, 24, 36)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 12 * (label // 2), 18 * (label % 2)
        image[:, top : top + 12, left : left + 18] += 25
    return qadtr.ImageSet.from_arrays(images, labels, ["nw", "ne", "sw", "se"], split=split)


if given.data is None:
    images = [*drawn("train", 600).hold_out(), drawn("test", 200)]
else:
    splits = ("train", "holdout", "test")
    images = [qadtr.ImageSet.from_folder(given.data, one, size=given.size) for one in splits]
training_set = images[0]

# %%
torch.manual_seed(1)
module = nn.Sequential(
    *(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
    *(nn.Conv2d(12, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(16 * 6, len(training_set.classes))),
)
example = torch.zeros(1, *training_set.images.shape[1:])
network = qadtr.quantize(module, example, bits=(32, 8, 4), name="own")

# %% [markdown]
# The loop is yours. `prepare` gives the pixels to show, at the step's bit-width; `learn`, after the
# backward pass, lets the patches take their step.

# %%
defense = {"name": "qadtr", "sizes_px": ["3%"], "personal_px": "3%", "gir": False}
loop = qadtr.DefendedLoop(network, training_set, defense, steps=given.steps, seed=1)
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
generator = torch.Generator().manual_seed(1)
network.train()
for step in range(given.steps):
    indices = torch.randint(len(training_set), (64,), generator=generator)
    pixels = torch.from_numpy(training_set.images[indices.numpy()]).float()
    labels = torch.from_numpy(training_set.labels[indices.numpy()])
    shown = loop.prepare(step, pixels, labels, indices)
    logits = network(shown)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    loop.learn(logits)
    optimizer.step()
    optimizer.zero_grad()
    if step % 30 == 0:
        print(f"step {step}, {network.bit_width} bits: loss {float(loss.detach()):.3f}")

# %% [markdown]
# A network in memory becomes a run: from here on nothing needs its code.

# %%
run = qadtr.RunFolder.from_network(network, given.out, images, seed=1, overwrite=True)
for model in qadtr.export(run, bits=(8, 4)):
    print(f"{model.lowered.path}: {model.lowered.size_bytes:,} bytes")

# %% [markdown]
# Attacked where it hurts most: on its own weights, at the bit-width that ships.

# %%
asked = {"steps": 20, "bit_widths": [4]}
patches = qadtr.make_patches(run, "lavan", size="8%", count=100, settings=asked)
results = qadtr.evaluate(run, patches, latency=False)
for row in results.rows:
    print(f"{row.bits} bits: clean {row.clean:.1%}, ASR {row.asr:.1%}, noise {row.noise:.1%}")
results.to_csv(given.out / "results.csv")

# %% [markdown]
# The gate: one file for the device, and the validator that decides there.

# %%
bundle = given.out / "own.qadtr"
bundle.unlink(missing_ok=True)
qadtr.bundle(run, bundle, bits=4, patches=patches, max_asr=0.9, max_drift=0.05)
validator = given.out / "validate.pyz"
subprocess.run([sys.executable, "-m", "qadtr", "validator", "--out", validator], check=True)
words = ["--json", given.out / "report.json", "--junit", given.out / "junit.xml"]
done = subprocess.run([sys.executable, "-I", validator, bundle, *words], check=False)
print("may ship" if done.returncode == 0 else f"may not ship: exit code {done.returncode}")
