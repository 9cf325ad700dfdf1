"""What the objective feeds to the losses, by hand; and what of it reaches the weights."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.config import TrainConfig
from model.data.sequences import Sequences
from model.data.training_set import TrainingSet
from model.loss.binary import BinaryCrossEntropy
from model.loss.next_item import NextItemLoss
from model.loss.scores import Catalogue, DomainScores
from model.loss.softmax import SampledSoftmax
from model.network.block import Block
from model.network.network import Network
from model.training.train import train
from tests.model.test_network import CPU, build, phase_of, scores

USER = 1
"""A user without a synthetic item whose whole history fits into one window."""


def with_loss(cfg: TrainConfig, **loss: Any) -> TrainConfig:
    return cfg.model_copy(update={"loss": cfg.loss.model_copy(update=loss)})


def with_network(cfg: TrainConfig, **network: Any) -> TrainConfig:
    return cfg.model_copy(update={"network": cfg.network.model_copy(update=network)})


class Drawn:
    """A next-item loss whose negatives are given."""

    def __init__(self, loss: NextItemLoss, drawn: list[Tensor]) -> None:
        self.loss, self.drawn = loss, drawn

    def draw(self, target: Tensor, generator: torch.Generator) -> list[Tensor]:
        return self.drawn

    def __call__(self, scores: DomainScores, target: Tensor, negatives: Tensor, weight: Tensor) -> Tensor:
        return self.loss(scores, target, negatives, weight)


def next_item(network: Network, data: TrainingSet, cfg: TrainConfig, users: list[int], drawn: list[Tensor]) -> float:
    """Return phase 1's next-item loss with these negatives."""
    objective, reader = phase_of(network, data, cfg, "pretrain")
    objective.next_item = Drawn(objective.next_item, drawn)
    batch = Sequences(data, cfg.network.max_length, CPU).batch(torch.tensor(users), cfg.loss)
    return objective.terms(reader, batch, torch.Generator()).next_item.item()


def predictions(data: TrainingSet) -> list[tuple[int, int, int]]:
    """Return (prefix length, target's column, domain) of each training prediction of USER."""
    found = []
    for length in range(1, int(data.train_end[USER])):
        target = int(data.items[data.offsets[USER] + length])
        domain = int(data.item_domain[target])
        found.append((length, data.domain_items[domain].tolist().index(target), domain))
    return found


@pytest.mark.parametrize("score", ["cosine", "dot"])
def test_with_every_item_drawn_once_the_sampled_softmax_is_the_exact_one(
    tiny: TrainingSet, small: TrainConfig, score: str
) -> None:
    cfg = with_network(small, score=score, temperature=0.5)
    network = build(tiny, cfg)
    drawn = [torch.from_numpy(items).flip(0) for items in tiny.domain_items]
    users = list(range(12))
    sampled = next_item(network, tiny, with_loss(cfg, negatives=6), users, drawn)
    exact = next_item(network, tiny, with_loss(cfg, negatives=0), users, [items.flip(0) for items in drawn])
    assert sampled == pytest.approx(exact, rel=1e-5)


def test_a_negative_counts_the_less_the_more_often_the_draw_yields_it(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = with_loss(small, popularity=1.0)
    network = build(tiny, cfg)
    loss = 0.0
    for length, column, domain in predictions(tiny):
        actions = torch.from_numpy(tiny.train_actions[tiny.domain_items[domain]]) + 1.0
        expected = len(actions) * actions / actions.sum()
        row = scores(network, tiny, [USER], [length], tiny.domains[domain])[0]
        corrected = row - expected.log()
        corrected[column] = row[column]
        loss += float(torch.logsumexp(corrected, 0) - row[column])
    drawn = [torch.from_numpy(items).flip(0) for items in tiny.domain_items]
    assert next_item(network, tiny, cfg, [USER], drawn) == pytest.approx(loss, rel=1e-5)


def test_negatives_are_drawn_by_popularity_and_alike_by_seed(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = with_loss(small, popularity=1.0, negatives=14)
    loss, target = SampledSoftmax(Catalogue.of(tiny, CPU), cfg.loss), torch.tensor([1])
    draws = [loss.draw(target, torch.Generator().manual_seed(seed)) for seed in range(4000)]
    for domain, items in enumerate(tiny.domain_items):
        found = np.bincount(torch.cat([drawn[domain] for drawn in draws]).numpy(), minlength=31)[items]
        chance = (tiny.train_actions[items] + 1) / (tiny.train_actions[items] + 1).sum()
        assert np.abs(found / (4000 * 14) - chance).max() < 0.006
    again = loss.draw(target, torch.Generator().manual_seed(3))
    assert all(torch.equal(one, two) for one, two in zip(draws[3], again, strict=True))


def test_the_binary_loss_draws_its_negatives_from_the_targets_domain(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = with_loss(small, next_item="bce")
    loss, item_domain = BinaryCrossEntropy(Catalogue.of(tiny, CPU), cfg.loss), Catalogue.of(tiny, CPU).item_domain
    target = Sequences(tiny, 8, CPU).batch(torch.arange(40), cfg.loss).target
    reached = set[int]()
    for seed in range(20):
        for domain, negatives in enumerate(loss.draw(target, torch.Generator().manual_seed(seed))):
            assert item_domain[negatives].tolist() == [domain] * int((item_domain[target] == domain).sum())
            reached |= set(negatives.tolist())
    assert reached == set(range(1, 31))


def test_the_binary_loss_is_that_of_each_target_and_its_negative(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = with_loss(small, next_item="bce")
    network = build(tiny, cfg)
    loss, negatives = 0.0, list[list[int]]([[], []])
    for place, (length, column, domain) in enumerate(predictions(tiny)):
        row = scores(network, tiny, [USER], [length], tiny.domains[domain])[0].double()
        other = (column + 1 + place) % 15 if place else column  # the first negative is the target: left out
        negatives[domain].append(int(tiny.domain_items[domain][other]))
        loss += float(-torch.nn.functional.logsigmoid(row[column]))
        loss += float(-torch.nn.functional.logsigmoid(-row[other])) if other != column else 0.0
    drawn = [torch.tensor(each) for each in negatives]
    assert next_item(network, tiny, cfg, [USER], drawn) == pytest.approx(loss, rel=1e-5)


def test_a_domains_loss_moves_the_adapter_of_that_domain_and_no_other(tiny: TrainingSet, small: TrainConfig) -> None:
    for domain in (0, 1):
        network = build(tiny, small, "finetune").train()
        objective, reader = phase_of(network, tiny, small, "finetune")
        batch = Sequences(tiny, 8, CPU).batch(torch.arange(20), small.loss)
        of_domain = objective.catalogue.item_domain[batch.target] == domain
        batch = dataclasses.replace(batch, weight=batch.weight * of_domain)
        objective.terms(reader, batch, generator()).next_item.backward()
        moved = [
            all(p.grad is not None and bool(p.grad.any()) for p in adapter.parameters())
            for adapter in network.domain_adapters
        ]
        still = [
            not any(p.grad is not None and bool(p.grad.any()) for p in a.parameters()) for a in network.domain_adapters
        ]
        assert (moved, still) == ([domain == 0, domain == 1], [domain == 1, domain == 0])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def trained(data: TrainingSet, cfg: TrainConfig, out: Path) -> dict[str, Tensor]:
    """Train both phases and return the last weights of phase 2, phase 1's among them."""
    train(data, cfg, "pretrain", out / "pretrained", out / "pretrained")
    train(data, cfg, "finetune", out / "checkpoint", out / "pretrained")
    return {
        name.removeprefix("weights."): tensor
        for name, tensor in load_file(out / "checkpoint" / "train_state.safetensors").items()
        if name.startswith("weights.")
    }


def phase(cfg: TrainConfig, name: str, **changed: Any) -> TrainConfig:
    return cfg.model_copy(update={name: getattr(cfg, name).model_copy(update=changed)})


def test_the_align_term_moves_what_is_trained_in_both_phases(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    one_epoch = phase(phase(small, "pretrain", epochs=1, align_weight=0.0), "finetune", epochs=1, align_weight=0.0)
    without = trained(tiny, one_epoch, tmp_path / "without")
    first = trained(tiny, phase(one_epoch, "pretrain", align_weight=1.0), tmp_path / "first")
    second = trained(tiny, phase(one_epoch, "finetune", align_weight=1.0), tmp_path / "second")
    for name in ("blocks.0.to_heads.weight", "item_vectors.adapter.up.weight", "positions.weight"):
        assert not torch.equal(without[name], first[name]), name
        assert torch.equal(without[name], second[name]), name
    for name in ("domain_adapters.0.head.weight", "domain_adapters.1.down.weight"):
        assert not torch.equal(without[name], second[name]), name


def test_every_parameter_of_a_domain_adapter_moves_from_epoch_to_epoch(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    one = trained(tiny, phase(small, "finetune", epochs=1), tmp_path / "one")
    two = trained(tiny, phase(small, "finetune", epochs=2, patience=2), tmp_path / "two")
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]) != name.startswith("domain_adapters."), name


def test_the_weights_that_score_after_phase_two_hold_phase_one_bit_by_bit(
    tiny: TrainingSet, small: TrainConfig, tmp_path: Path
) -> None:
    trained(tiny, small, tmp_path)
    best = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "pretrained" / "model.safetensors").items():
        assert torch.equal(tensor, best[name]), name


@pytest.mark.parametrize("which", ["pretrain", "finetune"])
@pytest.mark.parametrize("score", ["cosine", "dot"])
@pytest.mark.parametrize("loss", [{"negatives": 0}, {"negatives": 6}, {"next_item": "bce"}], ids=str)
def test_every_loss_has_finite_gradients_in_bfloat16(
    tiny: TrainingSet, small: TrainConfig, which: str, score: str, loss: dict[str, Any]
) -> None:
    cfg = phase(with_network(with_loss(small, **loss), score=score), "finetune", align_weight=1.0)
    network = build(tiny, cfg, which).train()
    objective, reader = phase_of(network, tiny, cfg, which)
    batch = Sequences(tiny, 8, CPU).batch(torch.arange(8), cfg.loss)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective.terms(reader, batch, generator())
    (terms.next_item + terms.extra["align"]).backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 5
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def test_a_compiled_block_computes_what_the_block_does(small: TrainConfig) -> None:
    if not torch._dynamo.is_dynamo_supported():
        pytest.skip("torch.compile does not run on this Python")
    torch.manual_seed(0)
    block = Block(small.network).eval()
    compiled = torch.compile(block, backend="aot_eager", dynamic=True)
    for length in (3, 7):
        states = torch.randn(2, length, 8)
        torch.testing.assert_close(compiled(states), block(states))
