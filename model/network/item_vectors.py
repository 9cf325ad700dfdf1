"""Item vectors: an item's text, adapted, plus a vector of its own.

Letters used in this file: K items, T size of a text vector, D hidden size.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import NetworkConfig


class ItemVectors(nn.Module):
    """The sum of an item's adapted text and its id vector; either part can be switched off."""

    text: Tensor  # (items + 1, T)
    has_text: Tensor  # (items + 1,) bool
    trained: Tensor  # (items + 1,) bool, whether the item has a training action

    def __init__(self, text: Tensor, has_text: Tensor, trained: Tensor, cfg: NetworkConfig) -> None:
        super().__init__()
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("has_text", has_text, persistent=False)
        self.register_buffer("trained", trained, persistent=False)
        self.adapter = _text_adapter(text.shape[1], cfg) if cfg.item_text else None
        self.ids = nn.Embedding(len(text), cfg.hidden) if cfg.item_id else None
        self.without_text = nn.Parameter(torch.zeros(cfg.hidden)) if cfg.item_text else None
        self.look_up: Callable[[Tensor], Tensor] | None = None
        """In training, gives out rows of `ids` instead of autograd's look-up where it is set; see `lazy_adamw.py`."""
        if self.ids is not None:
            nn.init.normal_(self.ids.weight, std=(0.5 if cfg.item_text else 1.0) * cfg.hidden**-0.5)
        if self.without_text is not None:
            nn.init.normal_(self.without_text, std=cfg.hidden**-0.5)

    def forward(self, numbers: Tensor) -> Tensor:
        """numbers: (K,) item numbers. Returns (K, D).

        Beside texts the id vector is off for an item without a training action: only chance and its use as a negative
        have moved it. An item that has neither part has a learned vector in common with all such items.
        """
        id_part = self._id_part(numbers)
        if self.adapter is None:
            assert id_part is not None
            return id_part
        assert self.without_text is not None
        has_text = self.has_text[numbers][:, None]  # (K, 1) bool
        absent = self.without_text.expand(len(numbers), -1)  # (K, D)
        if id_part is not None:
            trained = self.trained[numbers][:, None]
            id_part, absent = id_part * trained, absent * ~trained
        text_part = torch.where(has_text, self.adapter(self.text[numbers]), absent)  # (K, D)
        return text_part if id_part is None else id_part + text_part

    def _id_part(self, numbers: Tensor) -> Tensor | None:
        if self.ids is None:
            return None
        look_up = self.look_up if self.look_up and self.training else self.ids
        rows: Tensor = look_up(numbers)  # (K, D)
        return rows


def _text_adapter(size: int, cfg: NetworkConfig) -> nn.Module:
    if cfg.text_layers == 1:
        return Adapter(size, cfg.hidden)
    inner = max(size // 2, 1)
    layers = nn.Linear(size, inner), nn.Linear(inner, cfg.hidden)
    for layer in layers:
        nn.init.xavier_normal_(layer.weight)
    return nn.Sequential(*layers)


class Adapter(nn.Module):
    """Bring a text's vector to the network's size."""

    def __init__(self, text_size: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(text_size, hidden)
        nn.init.normal_(self.up.weight, std=hidden**-0.5)  # a unit vector comes out with a length near 1

    def forward(self, text: Tensor) -> Tensor:
        """text: (..., T). Returns (..., D)."""
        adapted: Tensor = self.up(text)
        return adapted
