"""What a term beside the next-item loss reads.

Letters used in this file: B users, S profile scopes, P size of a profile vector, D hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import LossConfig
from model.data.training_set import TrainingSet
from model.network.network import Network


class ProfileVectors:
    """The vectors of each scope that makes a user's profile."""

    def __init__(self, data: TrainingSet, aggregate: str, home: torch.device) -> None:
        scopes = [data.profiles[scope] for scope in profile_scopes(data, aggregate)]
        self.vectors = [torch.from_numpy(scope.vectors).to(home) for scope in scopes]  # S of (users, P)
        self.present = [torch.from_numpy(scope.present).to(home) for scope in scopes]  # S of (users,) bool
        self.home = home

    def __call__(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """users: (B,). Returns their vectors (B, S, P) and which are there (B, S), where `users` are."""
        at = users.to(self.home)
        vectors = torch.stack([vectors[at] for vectors in self.vectors], 1)
        present = torch.stack([present[at] for present in self.present], 1)
        return vectors.to(users.device), present.to(users.device)


@dataclass(frozen=True)
class UserStates:
    """The users of a batch, each as the network sees the user after the last item that is read."""

    network: Network
    states: Tensor  # (B, D)
    users: Tensor  # (B,) rows of the training set
    profile_vectors: ProfileVectors
    cfg: LossConfig

    def profiles(self) -> tuple[Tensor, Tensor]:
        """Return the profile vectors (B, S, P) of the users and which are there (B, S)."""
        return self.profile_vectors(self.users)


def profile_scopes(data: TrainingSet, aggregate: str) -> list[str]:
    """The scopes whose vectors make a user's profile: the overall one, or every domain for the gate."""
    scopes = data.domains if aggregate == "gate" else ("all",)
    return [scope for scope in scopes if scope in data.profiles]
