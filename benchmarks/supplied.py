r"""Patches from a file at 224 px, end to end: the words beside the records of that group.

The network is of ``benchmarks.calibrated_run``, the patches of

    qadtr patch RUN --data DIR --attack gap --size 50 --target CLASS --bits 32

written to one npz with the arrays ``patches`` and ``targets``, as a user would have it, and read by

    qadtr patch RUN --data DIR --supplied FILE.npz --images 600 --set rotation_degrees=45 \
        --set "scale_range=[0.5, 1.0]" --set translation=0.2
"""

from __future__ import annotations

GROUP = "imagenette-resnet18-supplied"
"""Folder of results/ that is shown so."""

ABOUT = (
    "Patches from a file ([attacks](attacks.md), supplied patches) at 224 px: an npz with two "
    "patches of 50×50 px and a target class for each (`two-patches.npz` beside the records), "
    "turned by up to ±45°, scaled to 0.5 to 1 and shifted by up to 20% of the image as "
    "ImageNet-Patch's own example does, tried in ONNX Runtime on 600 validation images of "
    "Imagenette, 60 of each class. These are not ImageNet-Patch's patches: that file could not "
    "be fetched. They are GAP's, made for this on the network's own 32-bit mode (40 steps of 12 "
    "images), so they are white-box at 32 bits; as from any file, the records know no source. "
    "Nor are weights trained at 224 px at hand: the convolutions are those of a ResNet-18 "
    "trained for two epochs on the same data at 64 px, and BatchNorm, scales and linear layer "
    "were calibrated at 224 px (`benchmarks/calibrated_run.py`). Such a network is weak, and "
    "its integer file departs from the fake-quantized network in more codes than `qadtr export` "
    "allows of itself (over half of those of a late layer; in the class, 1 of 12 images): the "
    "file was written with `--code-flips` and `--least-agreement` set so low that they forbid "
    "nothing, while its codes and logits equal the integer reference's. The figures show that "
    "the path works; they say nothing about ResNet-18 or about ImageNet-Patch. A targeted patch "
    "counts where the prediction becomes its target, over the images that are right and of "
    "another class. The attacks on this network were not checked ([attack checks](checks.md))."
)
