"""A float network that somebody else trained, with its weights and its preprocessing: calibrated
at 8 bits without training, then two epochs of QADT-R at 8, 4 and 2 bits; files, accuracy, ASR.

    python examples/pretrained_resnet32.py --weights FILE.safetensors --data CIFAR10 --out RUNS

The patches are made on a network that has nothing to do with this one (--source, a run).
"""

import argparse
from pathlib import Path

import torch
from resnet32 import ResNet32
from safetensors.torch import load_file

import qadtr

parser = argparse.ArgumentParser(description=__doc__)
for name in ("weights", "data", "out"):
    parser.add_argument(f"--{name}", type=Path, required=True)
parser.add_argument("--source", default="results/cifar10-resnet8-cpu/source")
given = parser.parse_args()
splits = ("train", "holdout", "test")
images = [qadtr.ImageSet.from_folder(given.data, split) for split in splits]
module = ResNet32()
module.load_state_dict(load_file(given.weights))
mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
network = qadtr.quantize(module, torch.zeros(1, 3, 32, 32), bits=(32, 8, 4, 2), mean=mean, std=std)
qadtr.calibrate(network, images[0].images[:1024])
calibrated = qadtr.RunFolder.from_network(network, given.out / "calibrated", images)
slow, out = {"training.learning_rate": 0.02}, given.out / "qadtr"
trained = qadtr.train(network, images, out, epochs=2, defense="qadtr", settings=slow)
qadtr.export(calibrated, bits=(32, 8))
qadtr.export(trained, bits=(8, 4, 2))
count, file = min(500, len(images[2])), given.out / "lavan-8.npz"
patches = qadtr.make_patches(given.source, "lavan", images, size=8, count=count, out=file)
results = qadtr.evaluate([calibrated, trained], patches, latency=False)
for row in results.rows:
    print(f"{row.defense} {row.bits} bits: clean {row.clean:.2%}, ASR {row.asr:.1%}")
results.to_csv(given.out / "results.csv")
