"""The mean of a network's trained weights over the last epochs, which is what a phase evaluates and keeps.

At a learning rate that stays as it is, weights wander about an optimum from epoch to epoch; their mean lies nearer to
it (Polyak and Juditsky, 1992; over epochs: Izmailov et al., 2018), and which epoch is the best is less of a draw.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


class WeightAverage:
    """An exponential mean of the parameters that are trained, one value an epoch."""

    def __init__(self, network: nn.Module, epochs: float) -> None:
        """epochs: how many of the last ones it is about the mean of; 1: the last one's own weights."""
        self.network, self.rate = network, 2 / (epochs + 1)
        self.mean = {name: own.detach().clone() for name, own in self._trained()}

    def update(self, epoch: int) -> None:
        """Take in the weights at the end of an epoch, counted from 1; until it has seen enough, all weigh alike."""
        for name, own in self._trained():
            self.mean[name].lerp_(own.detach(), max(self.rate, 1 / epoch))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network hold the mean; afterwards it has its own weights again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, mean: dict[str, Tensor]) -> None:
        """Go on from the mean of a run that stopped."""
        for name, held in self.mean.items():
            held.copy_(mean[name])

    def _swap(self) -> None:
        for name, own in self._trained():
            own.data, self.mean[name] = self.mean[name], own.data

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, own) for name, own in self.network.named_parameters() if own.requires_grad]
