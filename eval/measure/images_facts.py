"""What a record says of the images."""

from __future__ import annotations

from eval.measure.evaluation_record import ImagesFacts
from training.data import ImageSet


def images_facts(images: ImageSet) -> ImagesFacts:
    """The facts of one split."""
    return ImagesFacts(**images.about, n=len(images), classes=list(images.classes))
