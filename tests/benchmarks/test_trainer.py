"""The benchmarks of the trainer, as far as they can be wrong without a long run."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks import ablation
from benchmarks.ablation import VARIANTS
from benchmarks.growth import write_world
from benchmarks.quality import added_up, table
from benchmarks.trainer import best, save_actions, until
from benchmarks.trainer_job import Job
from benchmarks.trainer_ours import config, one_domain
from data_lake.schemas import METRICS
from flows.sample import write_sample
from flows.settings import Settings, load_settings
from model.config import TrainConfig
from model.data.training_set import TrainingSet
from model.evaluation.candidates import find_targets
from tests.model.worlds import world


def figures(value: float, group: str = "all", users: int = 9) -> dict[str, object]:
    return {
        "phase": "pretrain", "split": "test", "protocol": "sampled-999", "domain": "food", "group": group,
        "metric": "HR@10", "value": value, "low": 0.0, "high": 1.0, "users": users, "candidates": 1000.0,
    }  # fmt: skip


def seed(*values: float, group: str = "all", users: int = 9) -> pa.Table:
    rows = [figures(values[0])] + [figures(value, group, users) for value in values[1:]]
    every = [row | {"metric": metric} for row in rows for metric in ("HR@5", "HR@10", "NDCG@10", "MRR")]
    return pa.Table.from_pylist(every, METRICS.tables[""])


def test_the_quality_table_shows_mean_deviation_and_the_ratio_to_the_published_figure() -> None:
    lines = list(table([seed(0.3), seed(0.4)], with_published=True))
    assert lines[0] == "\nafter pretrain, targets: all"
    assert lines[2].split() == [
        "food", "sampled-999", "9",
        "0.3500", "±0.0707", "x1.39", "0.3500", "±0.0707", "x1.08",
        "0.3500", "±0.0707", "x1.78", "0.3500", "±0.0707", "x2.11",
    ]  # fmt: skip
    assert lines[3].split() == ["ABXI", "0.2519", "0.3243", "0.1971", "0.1655"]


def test_networks_add_up_by_their_probabilities_whatever_the_level_of_their_scores() -> None:
    none = np.zeros(1, np.int64)
    high, low = torch.tensor([[103.0, 100.0]]), torch.tensor([[-2.0, 0.0]])
    scores = added_up([lambda *_: high, lambda *_: low])(none, none, "food")
    assert (scores[0, 0] - scores[0, 1]).item() == pytest.approx((3 - 2) / 2)
    assert added_up([lambda *_: high])(none, none, "food").exp().sum().item() == pytest.approx(1.0)


def test_a_group_that_holds_all_targets_is_not_shown_again() -> None:
    assert len(list(table([seed(0.3, 0.2, group="not same-time", users=9)], with_published=False))) == 3
    assert len(list(table([seed(0.3, 0.2, group="not same-time", users=5)], with_published=False))) == 6


def test_every_variant_of_the_ablation_changes_the_settings(tmp_path: Path) -> None:
    write_sample(tmp_path, tmp_path / "edt.toml", ["users=60", "items=40"])
    whole = load_settings(tmp_path / "edt.toml")
    seen: list[Settings] = [whole]
    for overrides in VARIANTS.values():
        variant = load_settings(tmp_path / "edt.toml", overrides)
        assert variant not in seen
        seen.append(variant)


def test_the_ablation_compares_what_the_settings_allow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["enrich.generator=none", "train.network.hidden=8", "train.network.item_id=false", "train.threads=1"]
    fast = [f"train.{phase}.learning_rate=0.05" for phase in ("pretrain", "finetune")]  # so that one epoch tells
    variants = ["without text vectors", "without id vectors", "without trends", "without phase 2"]
    ablate(tmp_path, [*small, *fast], variants)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("without ")]
    assert [" ".join(line.split()[:2]) for line in lines] == ["without trends"] * 4 + ["without phase"] * 4
    without_trends, without_phase_2 = (
        [float(word) for word in line.split("NDCG@10")[1].split()[:3]] for line in (lines[1], lines[5])
    )
    assert without_trends[0] == without_phase_2[0]
    for whole, variant, difference in (without_trends, without_phase_2):
        assert difference == pytest.approx(variant - whole, abs=1.1e-4)
        assert abs(difference) > 1e-3


def ablate(out: Path, settings: list[str], variants: list[str]) -> None:
    """Run the ablation on a tiny world under `out`, which holds its settings in 60-40-0/edt.toml."""
    size = ["--users", "60", "--items", "40", "--epochs", "1", "--seeds", "1", "--out", str(out)]
    ablation.main([*size, "--variants", *variants, *(word for each in settings for word in ("--set", each))])


class Begun(Exception):
    """The first stage would run now."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Stop before the first stage, and hold the settings that it would run with."""
    held: list[Settings] = []

    def begin(settings: Settings) -> Path:
        held.append(settings)
        raise Begun

    monkeypatch.setattr(ablation, "training_set", begin)
    return held


def test_the_ablation_leaves_variants_out_before_it_begins(
    tmp_path: Path, begun: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Begun):
        ablate(tmp_path, ["train.preset=paper"], ["without profiles", "without text vectors", "without id vectors"])
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("without text vectors is left out: ")
    assert first.endswith("item_text and item_id cannot both be off: an item would have no vector.")
    assert second == "without id vectors is left out: the settings are so already"


def test_the_ablation_enriches_the_sample_world_as_it_is_set_up(tmp_path: Path, begun: list[Settings]) -> None:
    with pytest.raises(Begun):
        ablate(tmp_path, [], ["without phase 2"])
    sample = load_settings(tmp_path / "60-40-0" / "edt.toml")
    [whole] = begun
    assert (whole.enrich, whole.llm, whole.train.loss) == (sample.enrich, sample.llm, sample.train.loss)


def test_times_to_a_figure_count_training_only() -> None:
    epochs = [{"seconds": 2.0, "figure": 0.1}, {"seconds": 3.0, "figure": 0.3}, {"seconds": 4.0, "figure": 0.2}]
    assert best(epochs) == (0.3, 5.0)
    assert until(epochs, 0.1) == "2.0 s"
    assert until(epochs, 0.2) == "5.0 s"
    assert until(epochs, 0.4) == "not reached"


def test_both_trainers_get_the_same_actions_of_one_catalogue(tmp_path: Path) -> None:
    data = world({"u": "f1 *k2 k1 f2:validation k2:test"}, {"food": "f1 f2", "kitchen": "k1 k2"})
    save_actions(data, tmp_path / "actions.npz")
    held = np.load(tmp_path / "actions.npz")
    assert held["item"].tolist() == [1, 3, 2, 4]
    assert held["split"].tolist() == [0, 0, 1, 2]
    one = one_domain(data, texts=False)
    assert [items.tolist() for items in one.domain_items] == [[1, 2, 3, 4]]
    assert find_targets(one, "validation").domains.tolist() == [0]


@pytest.mark.parametrize("loss", ["bce", "softmax", "sampled"])
def test_our_side_is_a_plain_sasrec(loss: str) -> None:
    job = Job("", "", loss, 64, 2, 2, 50, 128, 0.2, 1e-3, 3, 1, True)
    cfg = config(job)
    assert (cfg.network.hidden, cfg.network.feedforward, cfg.network.score) == (64, 64, "dot")
    assert (cfg.network.item_text, cfg.network.domain_heads, cfg.pretrain.align_weight) == (False, False, 0.0)
    assert (cfg.loss.next_item == "bce") == (loss == "bce")
    if loss != "bce":
        assert cfg.loss.negatives == {"softmax": 0, "sampled": 1024}[loss]


def test_our_side_is_also_the_default_preset() -> None:
    cfg = config(Job("", "", "preset", 64, 2, 2, 50, 128, 0.2, 1e-3, 3, 1, True, plain=False))
    assert (cfg.network, cfg.loss) == (TrainConfig().network, TrainConfig().loss)
    assert (cfg.pretrain.epochs, cfg.threads) == (3, 1)


def test_a_simulated_world_is_a_training_set(tmp_path: Path) -> None:
    write_world(users=50, items=80, text_size=4, folder=tmp_path)
    data = TrainingSet.load(tmp_path)
    assert (data.n_users, data.n_items, data.item_vectors.shape[1]) == (50, 80, 4)
    assert len(find_targets(data, "test")) == len(find_targets(data, "validation")) == 50
    assert data.train_actions.sum() == len(data.items) - 100
    for start, end in zip(data.offsets[:-1], data.offsets[1:], strict=True):
        assert (np.diff(data.times[start:end]) > 0).all()
