"""Align: pull each user's state to the profile that the language model wrote of the user.

Letters used in this file: B users, S profile scopes, P size of a profile vector, D hidden size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model import parallel
from model.config import Align
from model.loss.user_states import UserStates


def align_term(users: UserStates) -> Tensor:
    """Return the align loss over the users with a profile, of all processes; zero without any."""
    states, profile = users.states, users.network.profile
    if profile is None:
        return states.new_zeros(())
    vectors, present = users.profiles()  # (B, S, P), (B, S)
    known = present.any(1)
    states, profiles = states[known], profile(vectors[known], present[known])  # (B, D)
    states, profiles = parallel.gather(states), parallel.gather(profiles)
    if not len(states):
        return states.new_zeros(())
    return align(states, profiles, users.cfg.align, users.cfg.align_temperature)


def align(states: Tensor, profiles: Tensor, form: Align, temperature: float) -> Tensor:
    """Pull each state to the user's own profile, and away from other users': cross-entropy in both directions.

    states, profiles: (B, D). "own": the user's own profile is the target, as in InfoNCE. "release": as the authors
    published it, without unit vectors; users who are alike share the target, which carries a gradient. Returns the mean
    over users.
    """
    states, profiles = states.float(), profiles.float()
    if form == "own":
        states, profiles = F.normalize(states, dim=1), F.normalize(profiles, dim=1)
    logits = states @ profiles.T / temperature  # (B, B)
    if form == "own":
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    likeness = (states @ states.T + profiles @ profiles.T) / (2 * temperature)
    target = likeness.softmax(dim=1)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
