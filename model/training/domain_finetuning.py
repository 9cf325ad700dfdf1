"""Phase 2, domain fine-tuning: phase 1 is frozen; each domain's adapter learns what to add to the shared score.

Letters used in this file: B users, L positions, P predictions, D hidden size.
"""

import torch
from torch import Tensor

from model.config import FinetuneConfig
from model.data.sequences import Batch
from model.loss.objective import Reading
from model.loss.scores import Catalogue, Items
from model.network.network import Network, Predictions


class DomainFinetuning:
    """Reads batches with the domain adapters in training. Item vectors are frozen, so they are computed once."""

    def __init__(self, network: Network, catalogue: Catalogue, cfg: FinetuneConfig) -> None:
        self.network, self.item_domain = network, catalogue.item_domain
        vectors = network.all_item_vectors()
        self.items = Items(vectors, torch.arange(len(vectors), device=vectors.device))
        self.query = network.query if cfg.train_score == "sum" else network.domain_query

    def read(self, batch: Batch, negatives: list[Tensor]) -> Reading:
        """Return the queries (P, D), and the query of each user's last position in each domain as the user's state."""
        windows = batch.windows
        inputs, item_domains = self.items.vectors[windows.items], self.item_domain[windows.items]  # (B, L, D), (B, L)
        predictions = Predictions(batch.batch_index, batch.position, self.item_domain[batch.target])

        def user_states() -> list[Tensor]:
            users, last = torch.arange(len(inputs), device=inputs.device), windows.lengths - 1
            each_domain = (torch.full_like(users, domain) for domain in range(len(self.network.domain_adapters)))
            return [
                self.query(inputs, windows, item_domains, Predictions(users, last, domain)) for domain in each_domain
            ]

        return Reading(self.query(inputs, windows, item_domains, predictions), self.items, user_states)
