"""An average of the trained weights over the epochs, which varies less from seed to seed than the last weights do."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Average:
    """Exponential average over epochs: average <- share * average + (1 - share) * weights, from the first weights on.

    At share 0 it is the last weights.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self.share = share
        self.trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self.held: dict[str, Tensor] = {}

    def update(self) -> None:
        """Take in the weights at the end of an epoch."""
        for name, weight in self.trained.items():
            if name in self.held:
                self.held[name].lerp_(weight.detach(), 1 - self.share)
            else:
                self.held[name] = weight.detach().clone()

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """Let the network hold the average inside a `with`, and its own weights again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> Mapping[str, Tensor]:
        """Return the average by parameter."""
        return self.held

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a saved average."""
        self.held = {name: state[name].to(weight.device) for name, weight in self.trained.items()}

    def _swap(self) -> None:
        for name, weight in self.trained.items():
            weight.data, self.held[name] = self.held[name], weight.data
