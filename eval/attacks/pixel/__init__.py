"""Pixel attacks (no patch: every pixel may change a little), by a library, at each bit-width."""

from eval.attacks.pixel.pixel_settings import PIXEL_ATTACKS, PixelSettings

__all__ = ["PIXEL_ATTACKS", "PixelSettings"]
