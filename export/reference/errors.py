"""What the integer reference refuses."""

from __future__ import annotations

from deploy.core.errors import InputError


class UnsupportedGraph(InputError):
    """The file has an operator, attribute or type that the integer reference does not define."""


class TooLarge(UnsupportedGraph):
    """An array or a sum larger than the reference computes, with this many images at once."""


class NotReproducible(UnsupportedGraph):
    """An operator whose result depends on how an engine rounds: no reference can be exact."""
