"""Phase 2, domain fine-tuning: phase 1 is frozen; each domain's adapter learns what to add to the shared score.

Letters used in this file: B users, L positions, P predictions, D hidden size.
"""

import torch
from torch import Tensor

from model.config import FinetuneConfig
from model.data.sequences import Batch, Sequences
from model.data.training_set import Ints
from model.loss.objective import Reading
from model.loss.scores import Catalogue, Items
from model.network.network import Encoded, Network, Predictions, last_of_domain
from model.training.frozen_states import FrozenStates


class DomainFinetuning:
    """Reads batches with the domain adapters in training; item vectors and the transformer's states are frozen."""

    def __init__(
        self, network: Network, catalogue: Catalogue, sequences: Sequences, users: Ints, cfg: FinetuneConfig
    ) -> None:
        self.network, self.item_domain = network, catalogue.item_domain
        self.query = network.query if cfg.train_score == "sum" else network.domain_query
        vectors = network.all_item_vectors()
        self.items = Items(network.scaled(vectors), torch.arange(len(vectors), device=vectors.device))
        self.states = FrozenStates(network, vectors, self.item_domain, sequences, users, cfg.batch_size)

    def read(self, batch: Batch, negatives: list[Tensor]) -> Reading:
        """Return the queries (P, D), and the query of each user's last position in each domain as the user's state."""
        states = self.states(batch)
        item_domains = self.item_domain[batch.windows.items]  # (B, L)
        domains = len(self.network.domain_adapters)

        def rows(table: Tensor, index: Tensor, position: Tensor) -> Tensor:
            """Return the states (P, D) at positions of windows."""
            return table[(states.first[index] + position).to(table.device)].to(index.device)

        def query(predictions: Predictions) -> Tensor:
            index, target_domain = predictions.batch_index, predictions.target_domain
            last = last_of_domain(item_domains, predictions, domains)
            shared = rows(states.shared, index, predictions.position)
            own = rows(states.domain, index, last.clamp(min=0))
            return self.query(Encoded(shared, own, last < 0), target_domain)

        def user_states() -> list[Tensor]:
            users, last = torch.arange(len(item_domains), device=item_domains.device), batch.windows.lengths - 1
            return [query(Predictions(users, last, torch.full_like(users, domain))) for domain in range(domains)]

        return Reading(
            query(Predictions(batch.batch_index, batch.position, self.item_domain[batch.target])),
            self.items,
            user_states,
        )
