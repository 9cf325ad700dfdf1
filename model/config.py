"""Settings of the trainer. Every switch of the method is one field; a preset is a full set of values."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from data_lake.config import Config, RenamedSettingWarning

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[int, Field(gt=0, le=16_384)]
"""Of a layer. The bounds of the network's shape are far above what helps: they keep out files that ask for memory."""

NextItem = Literal["softmax", "bce"]
Align = Literal["own", "release"]
MetricName = Literal["HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR"]
PHASES = {"pretrain": "pretrained", "finetune": "checkpoint"}
"""The phases in order, and the folder of a run, or the artifact, that holds the weights of each."""

PROTOCOL = r"^(full|sampled-[1-9][0-9]*)$"


class NetworkConfig(Config):
    """Shape of the network and where its item vectors come from."""

    renamed: ClassVar[Mapping[str, str]] = {"id_start": "id_init", "trends": "recency_half_lives"}

    hidden: Width = 128
    """Size of every vector of the network."""

    blocks: Annotated[int, Field(gt=0, le=256)] = 1
    """Transformer blocks."""

    heads: PositiveInt = 2
    """Attention heads; they divide `hidden`."""

    feedforward: Width = 512
    """Size of the hidden layer in each block."""

    dropout: Rate = 0.5
    """Inside the transformer's blocks."""

    input_dropout: Rate = 0.4
    """Of what the transformer reads."""

    item_dropout: Rate = 0.2
    """Of the items that the transformer reads, each dropped whole."""

    max_length: Annotated[int, Field(gt=0, le=65_536)] = 50
    """Real items of a history that are read, the latest ones; synthetic items among them do not count."""

    item_text: bool = True
    """An item's vector has a part from its text."""

    item_id: bool = True
    """An item's vector has a part of its own, learnt."""

    id_init: Literal["cooccurrence", "random"] = "cooccurrence"
    """Initial id vectors: alike for items that stand near the same items in training histories, or random."""

    text_layers: Literal[1, 2] = 1
    """Linear layers, without activation, from an item's text to its vector; the first of two halves its size."""

    text_centred: bool = True
    """Take the catalogue's mean out of the text vectors, so that they differ in more than a common direction."""

    input_scaled: bool = False
    """What the transformer reads is the items' vectors times the root of their text's size."""

    mark_synthetic: bool = True
    """Add one learned vector to synthetic items, so that the network can tell them from real ones."""

    score: Literal["cosine", "dot"] = "cosine"
    """How a state and an item make a score: by the angle between them, or by their product."""

    temperature: PositiveFloat = 0.07
    """Divides every score."""

    recency_half_lives: Annotated[tuple[PositiveFloat, ...], Field(max_length=16)] = (5.0, 20.0, 80.0, 1000.0)
    """Half-lives in days of the recency popularity that a score takes in; empty: off, as where the data tells no real
    times."""

    domain_heads: bool = True
    """Phase 1 turns its shared state into a query by one linear map per target domain."""

    bottleneck: Width = 64
    """Size of phase 2's adapter per domain."""

    bottleneck_dropout: Rate = 0.3
    """Inside that adapter."""

    @model_validator(mode="after")
    def _check(self) -> "NetworkConfig":
        if not (self.item_text or self.item_id):
            raise ValueError("item_text and item_id cannot both be off: an item would have no vector")
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        return self


class LossConfig(Config):
    """What is learnt at each position, and the pull of the profiles."""

    next_item: NextItem = "softmax"
    """Softmax over the negatives, or binary cross-entropy as published."""

    negatives: NonNegativeInt = 2048
    """Items per domain that a batch's softmax sees beside the targets; 0: all items of the domain, exactly."""

    popularity: NonNegativeFloat = 0.0
    """Negatives are drawn in proportion to (training actions + 1) ** popularity; 0: uniformly."""

    synthetic_weight: NonNegativeFloat | Literal["measured"] = "measured"
    """Weight of a synthetic item as a target of the last real item before it; a real target's is at most 1. `measured`:
    by how much more often than random items answers of its kind are chosen."""

    half_after_actions: NonNegativeFloat = 8.0
    """A target counts half after so many newer training actions of its user; 0: all count alike."""

    half_after_days: NonNegativeFloat = 400.0
    """A target counts half when it is so many days older than the latest training action; 0: all count alike, as where
    the data tells no real times."""

    align: Align = "own"
    """The user's own profile is the target, or as the method's authors published it."""

    align_temperature: PositiveFloat = 0.1
    """Divides the similarities of the pull to the profiles."""


class PhaseConfig(Config):
    """How one phase is optimised. A phase stops early after `patience` epochs without a better validation figure."""

    renamed: ClassVar[Mapping[str, str]] = {"halve_after": "lr_patience"}

    epochs: PositiveInt = 30
    """Epochs at most."""

    patience: PositiveInt = 5
    """Epochs without a better validation figure after which the phase ends."""

    batch_size: PositiveInt = 128
    """Users of a batch."""

    learning_rate: PositiveFloat = 1e-3
    """Of AdamW, before it is halved."""

    weight_decay: NonNegativeFloat = 0.0
    """Of AdamW."""

    clip: NonNegativeFloat = 5.0
    """Largest norm of the gradient; 0: no limit."""

    lr_patience: NonNegativeInt = 4
    """Halve the learning rate after this number of epochs without a better validation figure; 0: never."""

    average_epochs: Annotated[float, Field(ge=1.0)] = 4.0
    """The mean of the weights over about so many of the last epochs is evaluated and kept; 1: the last one's own."""

    align_weight: NonNegativeFloat = 0.02
    """Weight of the pull to the profiles; 0: off."""


class PretrainConfig(PhaseConfig):
    """Phase 1: all domains in one sequence."""


class FinetuneConfig(PhaseConfig):
    """Phase 2: what each domain adds, over frozen phase-1 weights."""

    epochs: PositiveInt = 6
    patience: PositiveInt = 2
    learning_rate: PositiveFloat = 5e-4
    align_weight: NonNegativeFloat = 0.0
    domain_weight: PositiveFloat = 0.1
    """What the domain term weighs in the score, beside the shared term's 1; at first, where it is learnt."""

    domain_weight_learnt: bool = True
    """Learn that weight, one per domain."""

    train_score: Literal["sum", "domain"] = "sum"
    """The score that the loss is taken on: the one that ranks, or its domain term alone, as published; either way with
    the recency popularity."""


class TrainConfig(Config):
    """All settings of both phases. A preset gives the values that are not set."""

    preset: Literal["default", "release", "release+ids"] = "default"
    """`release`: the values of the scripts that the method's authors released, for food-kitchen, with which `[enrich]
    place` is "similar", too; `release+ids`: the same with id vectors from co-occurrence beside the text."""

    seed: NonNegativeInt = 0
    """Of initial weights, batches, negatives and dropout."""

    aggregate: Literal["llm", "gate"] = "llm"
    """Overall profile of a user: the vector of the LLM's merge, or a learned mix of the domain profiles."""

    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    pretrain: PretrainConfig = PretrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()

    select_protocol: Literal["full", "sampled-100", "sampled-999"] = "full"
    """Among which candidates the validation target is ranked."""

    select_metric: MetricName = "MRR"
    """The validation figure, averaged over domains, that chooses the epoch and stops early."""

    select_users: PositiveInt = 20_000
    """Users of the validation figure at most: a fixed sample of larger data."""

    threads: NonNegativeInt = 0
    """CPU threads of each process; 0: as many as there are cores for it. It changes sums in the last digits."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: on a GPU where there is one."""

    compile: bool = False
    """On CUDA only: compile the transformer's blocks."""

    bf16: bool = True
    """On CUDA only: matrix products in bfloat16."""

    stream: bool = False
    """Read the training set through memory-mapped files in the temporary folder, for data larger than memory."""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if (old := given.get("preset")) in OLD_PRESETS:
            warnings.warn(f'preset "{old}" is now called "{OLD_PRESETS[old]}"', RenamedSettingWarning, 2)
            given = given | {"preset": OLD_PRESETS[old]}
        if given.get("preset") not in RELEASES:
            return given
        for name, section in SECTIONS.items():
            if isinstance(given.get(name), dict):
                given = given | {name: section.with_new_names(given[name])}  # before the preset's own names join them
        return _merge(RELEASES[given["preset"]], given)

    def without_times(self) -> "TrainConfig":
        """Return the settings for data that tells no real times: nothing is counted by days."""
        network = self.network.model_copy(update={"recency_half_lives": ()})
        loss = self.loss.model_copy(update={"half_after_days": 0.0})
        return self.model_copy(update={"network": network, "loss": loss})


SECTIONS: dict[str, type[Config]] = {
    "network": NetworkConfig, "loss": LossConfig, "pretrain": PretrainConfig, "finetune": FinetuneConfig,
}  # fmt: skip

MACHINE = frozenset({"threads", "device", "compile", "stream"})
"""Settings of `TrainConfig` that say how a training is computed, not which: another value changes last digits only, so
a run goes on with it and no artifact becomes stale. Not `bf16`: that is another precision."""

_RELEASE: dict[str, Any] = {
    "network": {
        "hidden": 128, "blocks": 2, "heads": 1, "feedforward": 128, "dropout": 0.5, "input_dropout": 0.5,
        "item_dropout": 0.0, "max_length": 200, "item_text": True, "item_id": False, "text_layers": 2,
        "text_centred": True, "input_scaled": True, "mark_synthetic": False, "score": "dot", "temperature": 1.0,
        "recency_half_lives": (), "domain_heads": False, "bottleneck": 32, "bottleneck_dropout": 0.3,
    },
    "loss": {
        "next_item": "bce", "negatives": 1, "synthetic_weight": 1.0, "half_after_actions": 0.0, "half_after_days": 0.0,
        "align": "release", "align_temperature": 1.0,
    },
    "pretrain": {"epochs": 200, "patience": 35, "batch_size": 512, "learning_rate": 1e-3, "clip": 0.0, "lr_patience": 0,
                 "average_epochs": 1.0, "align_weight": 0.5},
    "finetune": {
        "epochs": 200, "patience": 20, "batch_size": 512, "learning_rate": 1e-4, "weight_decay": 0.01, "clip": 0.1,
        "lr_patience": 5, "average_epochs": 1.0, "align_weight": 0.5, "domain_weight": 1.0,
        "domain_weight_learnt": False, "train_score": "domain",
    },
}  # fmt: skip

RELEASES: dict[str, dict[str, Any]] = {
    "release": _RELEASE,
    "release+ids": _RELEASE | {"network": _RELEASE["network"] | {"item_id": True, "id_init": "cooccurrence"}},
}
"""What the method's authors released for food-kitchen, where our default differs or has no such value, by preset."""

OLD_PRESETS = {"paper": "release"}
"""Presets by their old names, which warn."""


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


class EvaluateConfig(Config):
    """What is measured on the validation and test targets."""

    protocols: tuple[Annotated[str, Field(pattern=PROTOCOL)], ...] = ("full", "sampled-100", "sampled-999")
    """`full` ranks among the whole domain, `sampled-N` among N negatives."""

    users: PositiveInt | None = None
    """Measure a fixed sample of this number of users; none: all of them."""

    resamples: PositiveInt = 1000
    """Bootstrap resamples behind each interval."""

    batch_size: PositiveInt = 512
    """Users at a time."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """As in training."""

    stream: bool = False
    """As in training."""


class RecommendConfig(Config):
    """What is recommended to every user."""

    top: PositiveInt = 10
    """Items per user and domain."""

    allow: Path | None = None
    """A file of ids, one a line or in a column item_id (CSV, Parquet): nothing but these items is recommended."""

    deny: Path | None = None
    """Such a file: none of these items is recommended, as what is out of stock."""

    batch_size: PositiveInt = 512
    """Users at a time."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """As in training."""

    stream: bool = False
    """As in training."""

    def sources(self) -> list[Path]:
        """Return the files of ids that there are."""
        return [path for path in (self.allow, self.deny) if path is not None]

    def as_fingerprint(self) -> dict[str, Any]:
        """Return the settings; of a file of ids only that there is one, for what it holds is hashed by itself."""
        found = super().as_fingerprint()
        for name in found.keys() & {"allow", "deny"}:
            if found.pop(name) is not None:
                found[name] = True
        return found
