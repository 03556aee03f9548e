r"""Patches from a file at 224 px, end to end: the words beside the records of that group.

The network is of ``benchmarks.calibrated_run``, the patches of

    qadtr patch RUN --data DIR --attack gap --size 50 --target CLASS --bits 32

written to one npz with the arrays ``patches`` and ``targets``, as a user would have it, and read by

    qadtr patch RUN --data DIR --supplied FILE.npz --images 500 --set rotation_degrees=45 \
        --set "scale_range=[0.5, 1.0]" --set translation=0.2
"""

from __future__ import annotations

GROUP = "imagenette-resnet18-supplied"
"""Folder of results/ that is shown so."""

ABOUT = (
    "Patches from a file (docs/attacks.md, supplied patches) at 224 px: an npz with patches of "
    "50×50 px and a target class for each, turned by up to ±45°, scaled to 0.5 to 1 and shifted "
    "by up to 20% of the image as ImageNet-Patch's own example does, tried in ONNX Runtime on "
    "Imagenette. These are not ImageNet-Patch's patches: that file could not be had here. They "
    "are GAP's, made for this on the network's own 32-bit mode; as from any file, the records "
    "know no source. No weights trained at 224 px exist here: the convolutions are those of a "
    "ResNet-18 trained for two epochs on the same images at 64 px, BatchNorm, scales and linear "
    "layer were calibrated at 224 px (`benchmarks/calibrated_run.py`). A weak network, so these "
    "figures show that the path works; they say nothing about ResNet-18 or about ImageNet-Patch. "
    "A targeted patch counts where the prediction becomes its target, over the images that are "
    "right and of another class."
)
