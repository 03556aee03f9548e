"""Several networks as one source, so that a patch is made against all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from deploy.core.errors import InputError
from training.prediction import SwitchableNetwork


class Ensemble(nn.Module):
    """The mean of the members' logits; ``at(bits)`` switches every member.

    Members may differ in architecture; classes and input size must be the same. An ensemble of
    bit-widths needs no ensemble of networks: ``AttackSettings.bit_widths`` sums the losses of one
    network's bit-widths.

    References: Dong et al., "Boosting adversarial attacks with momentum" (CVPR 2018), who find the
    mean of the logits the strongest way to join networks.
    """

    def __init__(self, members: Sequence[SwitchableNetwork]) -> None:
        """Join the members, at least one.

        Raises:
            InputError: no member, or one that is not a torch network.
        """
        super().__init__()
        modules = [member for member in members if isinstance(member, nn.Module)]
        if not members or len(modules) != len(members):
            raise InputError("an ensemble needs one or more torch networks")
        self.members = nn.ModuleList(modules)
        self._switchable = tuple(members)

    @contextmanager
    def at(self, bits: int) -> Iterator[Self]:
        """Every member at a bit-width, inside a ``with`` block.

        Raises:
            InputError: a member lacks the bit-width.
        """
        with ExitStack() as stack:
            for member in self._switchable:
                stack.enter_context(member.at(bits))
            yield self

    def forward(self, pixels: Tensor) -> Tensor:
        """Mean logits, float N×C, of pixel values 0…255, N×3×H×W.

        Raises:
            InputError: members with different numbers of classes.
        """
        found = [member(pixels) for member in self._switchable]
        if len({logits.shape[1] for logits in found}) > 1:
            raise InputError(
                "the members of an ensemble must have the same classes, they have "
                + ", ".join(str(logits.shape[1]) for logits in found)
            )
        return torch.stack(found).mean(dim=0)
