"""Errors of the integer reference."""

from __future__ import annotations

from deploy.core.errors import InputError


class UnsupportedGraph(InputError):
    """The file has an operator, attribute or type that the integer reference does not define."""


class TooLarge(UnsupportedGraph):
    """An array or a sum is too large for the reference at this number of images."""


class NotReproducible(UnsupportedGraph):
    """The result of an operator depends on how an engine rounds, so no reference can be exact."""
