"""Where a network is computed."""

import torch

from data_lake.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """Return the device of a setting: "cpu", "cuda", or "auto", which takes a GPU where there is one.

    Raises UserError for "cuda" without a GPU.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda' but torch sees no GPU. Set device = \"auto\".")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")
