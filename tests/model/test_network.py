"""What the network may see, and what each phase may move."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.config import LossConfig, TrainConfig
from model.data.batches import trainable_users
from model.data.sequences import Batch, Sequences, Windows
from model.data.training_set import TrainingSet
from model.evaluation.scoring import NetworkScorer
from model.loss.objective import LossTerms, Objective, Phase
from model.loss.scores import Catalogue
from model.network.network import Network, Predictions, build_network, domain_windows
from model.training.domain_finetuning import DomainFinetuning
from model.training.shared_pretraining import SharedPretraining
from tests.model.worlds import world

CPU = torch.device("cpu")


def build(data: TrainingSet, cfg: TrainConfig, phase: str = "pretrain") -> Network:
    torch.manual_seed(0)
    network = build_network(cfg.network, data, data.profiles["all"].vectors.shape[1])
    leave_the_start(network.heads)
    if network.recency_popularity is not None:
        leave_the_start(network.recency_popularity)
    if phase == "finetune":
        network.add_domain_adapters(len(data.domains))
        leave_the_start(network.domain_adapters)
    return network.eval()


def leave_the_start(part: nn.Module) -> None:
    """Change what adds nothing of its own at first."""
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=0.3)


def scores(network: Network, data: TrainingSet, users: list[int], lengths: list[int], domain: str = "a") -> Tensor:
    scorer = NetworkScorer(network, data, Sequences(data, network.cfg.max_length, CPU))
    return scorer(np.array(users), np.array(lengths), domain)


def terms(network: Network, data: TrainingSet, cfg: TrainConfig, phase: str, users: list[int]) -> LossTerms:
    objective, reader = phase_of(network, data, cfg, phase)
    batch = Sequences(data, cfg.network.max_length, CPU).batch(torch.tensor(users), cfg.loss)
    return objective.terms(reader, batch, torch.Generator().manual_seed(3))


def phase_of(network: Network, data: TrainingSet, cfg: TrainConfig, phase: str) -> tuple[Objective, Phase]:
    """Return what a phase learns, and how it reads a batch."""
    if phase == "pretrain":
        objective = Objective(data, cfg, cfg.pretrain, CPU)
        return objective, SharedPretraining(network, objective.catalogue)
    objective = Objective(data, cfg, cfg.finetune, CPU)
    sequences = Sequences(data, cfg.network.max_length, CPU)
    return objective, DomainFinetuning(network, objective.catalogue, sequences, trainable_users(data), cfg.finetune)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_a_later_item_changes_no_earlier_prediction(tiny: TrainingSet, small: TrainConfig, phase: str) -> None:
    network = build(tiny, small, phase).double()  # the last bit of a matrix product may move
    item_domain = Catalogue.of(tiny, CPU).item_domain
    batch = Sequences(tiny, 8, CPU).batch(torch.tensor([0, 1]), LossConfig())

    def queries(batch: Batch, items: Tensor) -> Tensor:
        windows = dataclasses.replace(batch.windows, items=items)
        inputs = network.item_vectors(items.flatten()).view(*items.shape, -1)
        predictions = Predictions(batch.batch_index, batch.position, torch.zeros_like(batch.target))
        encoded = network.encode_predictions(inputs, windows, item_domain[items], predictions)
        return network.query(encoded, predictions.target_domain)

    changed = batch.windows.items.clone()
    changed[:, 4] = torch.where(changed[:, 4] == 1, 2, 1)  # both of domain "a"
    before, after = queries(batch, batch.windows.items), queries(batch, changed)
    early = batch.position < 4
    torch.testing.assert_close(before[early], after[early], rtol=0, atol=1e-12)
    assert (before[batch.position == 4] - after[batch.position == 4]).abs().max() > 1e-2


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_padding_and_company_change_no_score(tiny: TrainingSet, small: TrainConfig, phase: str) -> None:
    network = build(tiny, small, phase)
    alone = torch.cat([scores(network, tiny, [user], [2 + user % 4]) for user in range(12)])
    together = scores(network, tiny, list(range(12)), [2 + user % 4 for user in range(12)])
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("phase", ["pretrain", "finetune"])
def test_a_batch_has_the_losses_of_its_users(tiny: TrainingSet, small: TrainConfig, phase: str) -> None:
    cfg = small.model_copy(update={"loss": small.loss.model_copy(update={"negatives": 0})})
    network = build(tiny, cfg, phase)
    alone = sum(terms(network, tiny, cfg, phase, [user]).next_item.item() for user in range(6))
    together = terms(network, tiny, cfg, phase, list(range(6))).next_item.item()
    assert alone == pytest.approx(together, rel=1e-5)


def test_a_training_prediction_is_the_score_at_that_time(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = small.model_copy(update={"loss": small.loss.model_copy(update={"negatives": 0})})
    network = build(tiny, cfg, "finetune")
    user = 1  # has no synthetic item
    last = int(tiny.train_end[user]) - 1
    loss = 0.0
    for cut in range(1, last + 1):
        target = int(tiny.items[tiny.offsets[user] + cut])
        domain = int(tiny.item_domain[target])
        row = scores(network, tiny, [user], [cut], tiny.domains[domain])[0]
        loss += float(torch.logsumexp(row, 0) - row[tiny.domain_items[domain].tolist().index(target)])
    assert terms(network, tiny, cfg, "finetune", [user]).next_item.item() == pytest.approx(loss, rel=1e-5)


def test_a_domain_adapter_starts_as_the_transformers_own_states(tiny: TrainingSet, small: TrainConfig) -> None:
    torch.manual_seed(0)
    network = build_network(small.network, tiny, 5)
    network.add_domain_adapters(2)
    states = torch.randn(4, 8)
    for adapter in network.eval().domain_adapters:
        torch.testing.assert_close(adapter(states), states)


def test_a_domain_without_history_adds_nothing(tiny: TrainingSet, small: TrainConfig) -> None:
    only_a = dataclasses.replace(tiny, items=(tiny.items % 15 + 1).astype(np.int32))
    with_adapters = build(only_a, small, "finetune")
    shared = build(only_a, small, "pretrain")
    assert torch.equal(scores(with_adapters, only_a, [0, 1], [4, 5], "b"), scores(shared, only_a, [0, 1], [4, 5], "b"))
    assert not torch.equal(scores(with_adapters, only_a, [0], [4], "a"), scores(shared, only_a, [0], [4], "a"))


def test_without_any_history_every_item_scores_alike(tiny: TrainingSet, small: TrainConfig) -> None:
    assert scores(build(tiny, small, "finetune"), tiny, [0], [0]).unique().tolist() == [0.0]


def test_phase_two_trains_the_domain_adapters_and_nothing_else(tiny: TrainingSet, small: TrainConfig) -> None:
    network = build(tiny, small, "finetune").train()
    terms(network, tiny, small, "finetune", list(range(20))).next_item.backward()
    for name, parameter in network.named_parameters():
        if name.startswith("domain_adapters."):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name
    assert not network.blocks.training
    assert network.domain_adapters.training


def test_the_profiles_gradient_reaches_what_predictions_use(tiny: TrainingSet, small: TrainConfig) -> None:
    network = build(tiny, small).train()
    terms(network, tiny, small, "pretrain", list(range(20))).extra["align"].backward()
    for part in (network.blocks, network.positions, network.item_vectors, network.profile):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    network = build(tiny, small, "finetune").train()
    aligned = small.model_copy(update={"finetune": small.finetune.model_copy(update={"align_weight": 1.0})})
    terms(network, tiny, aligned, "finetune", list(range(20))).extra["align"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.domain_adapters.parameters())


def test_users_without_a_profile_are_left_out_of_the_align_term(tiny: TrainingSet, small: TrainConfig) -> None:
    network = build(tiny, small)
    with_profile = terms(network, tiny, small, "pretrain", [0, 2, 4]).extra["align"].item()
    with_others = terms(network, tiny, small, "pretrain", [0, 1, 2, 3, 4]).extra["align"].item()
    assert with_others == pytest.approx(with_profile, rel=1e-5)
    assert terms(network, tiny, small, "pretrain", [1, 3]).extra["align"].item() == 0.0


def test_the_gate_learns_how_to_mix_domain_profiles(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = small.model_copy(update={"aggregate": "gate"})
    network = build(tiny, cfg).train()
    terms(network, tiny, cfg, "pretrain", list(range(20))).extra["align"].backward()
    assert network.profile is not None
    assert network.profile.gate.weight.grad is not None
    assert network.profile.gate.weight.grad.abs().sum() > 0


def test_a_synthetic_item_is_context_and_marked(tiny: TrainingSet, small: TrainConfig) -> None:
    network = build(tiny, small)
    assert network.synthetic_mark is not None
    before = scores(network, tiny, [0, 1], [6, 6])  # user 0 has a synthetic item at 3, user 1 has none
    with torch.no_grad():
        network.synthetic_mark += torch.arange(8.0)
    after = scores(network, tiny, [0, 1], [6, 6])
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize(("text", "ids"), [(True, True), (True, False), (False, True)])
def test_each_part_of_an_item_vector_can_be_switched_off(
    tiny: TrainingSet, small: TrainConfig, text: bool, ids: bool
) -> None:
    cfg = small.network.model_copy(update={"item_text": text, "item_id": ids})
    torch.manual_seed(0)
    vectors = build_network(cfg, tiny, 0).item_vectors
    names = {name.split(".")[0] for name, _ in vectors.named_parameters()}
    assert names == {name for name, on in (("adapter", text), ("ids", ids), ("without_text", text)) if on}
    both_without_text = vectors(torch.tensor([10, 20]))
    assert torch.equal(both_without_text[0], both_without_text[1]) == (not ids)


def test_an_item_without_text_has_a_zero_text_part(tiny: TrainingSet, small: TrainConfig) -> None:
    vectors = build_network(small.network, tiny, 0).item_vectors
    assert vectors.ids is not None
    assert torch.equal(vectors(torch.tensor([10])), vectors.ids(torch.tensor([10])))
    assert not torch.equal(vectors(torch.tensor([11])), vectors.ids(torch.tensor([11])))


def test_an_item_without_a_training_action_is_its_text_alone(small: TrainConfig) -> None:
    data = world({"u": "a1 b1 a1 b3:test"}, {"a": "a1", "b": "b1 b2 b3"}, no_text="b2")  # numbers 1, 2, 3, 4
    vectors = build_network(small.network, data, 0).item_vectors
    assert vectors.ids is not None
    assert vectors.adapter is not None
    assert vectors.without_text is not None
    nn.init.normal_(vectors.without_text)
    for training in (True, False):
        vectors.train(training)
        warm, neither, cold = vectors(torch.tensor([2, 3, 4]))
        text = vectors.adapter(vectors.text[4])
        assert torch.equal(cold, text)
        assert torch.allclose(warm, text + vectors.ids(torch.tensor(2)))
        assert torch.equal(neither, vectors.without_text)


@pytest.mark.parametrize("score", ["cosine", "dot"])
def test_scores_are_cosines_or_products_over_the_temperature(tiny: TrainingSet, small: TrainConfig, score: str) -> None:
    changed = {"score": score, "temperature": 0.5, "recency_half_lives": ()}
    cfg = small.model_copy(update={"network": small.network.model_copy(update=changed)})
    network = build(tiny, cfg)
    found = scores(network, tiny, [0, 1], [3, 4])
    assert found.shape == (2, 15)
    assert (found.abs().max() <= 2.0 + 1e-6) == (score == "cosine")


def used_in_scores(network: Network, part: nn.Module, data: TrainingSet, domain: str) -> list[str]:
    """Names of the parameters of a part that change some score of a domain when they change."""
    used = []
    before = scores(network, data, list(range(10)), [6] * 10, domain)
    for name, parameter in part.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        if not torch.equal(before, scores(network, data, list(range(10)), [6] * 10, domain)):
            used.append(name)
        with torch.no_grad():
            parameter.copy_(kept)
    return used


@pytest.mark.parametrize(("number", "domain"), enumerate(("a", "b")))
def test_every_phase_two_parameter_is_used_in_the_scores_of_its_own_domain_only(
    tiny: TrainingSet, small: TrainConfig, number: int, domain: str
) -> None:
    network = build(tiny, small, "finetune")
    own = [f"{number}.{name}" for name, _ in network.domain_adapters[number].named_parameters()]
    assert used_in_scores(network, network.domain_adapters, tiny, domain) == own


def test_every_phase_one_parameter_that_a_score_uses_is_trained(tiny: TrainingSet, small: TrainConfig) -> None:
    network = build(tiny, small)
    terms(network, tiny, small, "pretrain", list(range(tiny.n_users))).next_item.backward()
    trained = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    for domain in ("a", "b"):
        assert set(used_in_scores(network, network, tiny, domain)) - trained == set()


def test_a_dropped_item_leaves_only_its_place(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = small.model_copy(update={"network": small.network.model_copy(update={"item_dropout": 1.0})})
    network = build(tiny, cfg)
    windows, _ = Sequences(tiny, cfg.network.max_length, CPU).windows(torch.tensor([0, 2]), torch.tensor([3, 3]))
    inputs = network.item_vectors(windows.items.flatten()).view(*windows.items.shape, -1)
    network.cfg = cfg.network.model_copy(update={"input_dropout": 0.0})
    whole = network.encode(inputs, windows)
    assert not torch.equal(whole[0], whole[1])
    network.blocks.train()
    for block in network.blocks:
        block.dropout = 0.0
    dropped = network.encode(inputs, windows)
    assert torch.allclose(dropped[0], dropped[1], atol=1e-6)


def test_products_in_half_precision_train_the_domain_adapters(tiny: TrainingSet, small: TrainConfig) -> None:
    cfg = small.model_copy(update={"network": small.network.model_copy(update={"score": "dot", "temperature": 1.0})})
    network = build(tiny, cfg, "finetune").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = terms(network, tiny, cfg, "finetune", [0, 1, 2]).next_item
    assert bool(loss.isfinite())


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_several_threads_repeat_a_gradient_bit_for_bit(tiny: TrainingSet, small: TrainConfig, loss: str) -> None:
    wide = small.network.model_copy(update={"hidden": 256})
    cfg = small.model_copy(update={"network": wide, "loss": small.loss.model_copy(update={"next_item": loss})})
    network = build(tiny, cfg)

    def gradient() -> Tensor:
        network.zero_grad()
        terms(network, tiny, cfg, "pretrain", 20 * list(range(40))).next_item.backward()  # type: ignore[no-untyped-call]
        assert network.item_vectors.ids is not None
        assert network.item_vectors.ids.weight.grad is not None
        return network.item_vectors.ids.weight.grad.clone()

    torch.set_num_threads(2)
    try:
        first = gradient()
        assert all(gradient().equal(first) for _ in range(3))
    finally:
        torch.set_num_threads(1)


def test_the_windows_of_a_domain_hold_its_items_in_their_order() -> None:
    is_domain = torch.tensor([[False, True, False, True], [True, True, False, False], [False] * 4])
    items = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])
    given = Windows(items, torch.zeros_like(items), torch.zeros_like(is_domain), torch.tensor([4, 4, 4]))
    windows, order = domain_windows(given, is_domain)
    assert order.tolist() == torch.argsort(~is_domain, dim=1, stable=True)[:, :2].tolist()
    assert windows.lengths.tolist() == [2, 2, 0]
    assert windows.items[0].tolist() == [2, 4]
    assert windows.items[1].tolist() == [5, 6]
