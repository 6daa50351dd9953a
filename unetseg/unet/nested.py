"""Nested skips: UNet++'s convolutions between the encoder and the decoder."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class Node(nn.Module):
    """One node Xⁱʲ of UNet++: all nodes before it in its row, and the one below, doubled in size.

    Args:
        up: Doubles the height and width of the node below.
        block: The convolutions, from all channels to the level's width.
    """

    def __init__(self, up: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.block = block

    def forward(self, row: Sequence[Tensor], below: Tensor) -> Tensor:
        """Row of N×C×H×W and below N×C'×H/2×W/2 → N×width×H×W."""
        output: Tensor = self.block(torch.cat([*row, self.up(below)], dim=1))
        return output


class NestedPathway(nn.Module):
    """Dense skip pathways (Zhou 2018, 1807.10165): features of the encoder → richer skips.

    Level i becomes [Xⁱ⁰, Xⁱ¹, …] side by side, Xⁱ⁰ being the encoder's features and Xⁱʲ a node over
    Xⁱ⁰ … Xⁱʲ⁻¹ and Xⁱ⁺¹ʲ⁻¹. A level without nodes stays as it is.

    Args:
        nodes: The nodes of every level, full resolution first.
    """

    def __init__(self, nodes: Iterable[Iterable[nn.Module]]) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(nn.ModuleList(level) for level in nodes)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """N×C×H×W for each level, full resolution first; the same with more channels."""
        skips: list[Tensor] = []
        below: list[Tensor] = []
        for nodes, feature in zip(reversed(self.nodes), reversed(features), strict=True):
            assert isinstance(nodes, nn.ModuleList)
            row = [feature]
            for node, under in zip(nodes, below, strict=False):
                row.append(node(row, under))
            skips.insert(0, torch.cat(row, dim=1))
            below = row
        return skips
