"""A phase as a folder of its own, and as a program: the same scores."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from data_lake.errors import UserError
from model.config import RecommendConfig
from model.exported import export_model, item_points, load_exported, user_points
from model.history_scorer import HistoryScorer, export_onnx, export_scorer
from model.recommend import Recommender, top_items

CFG = RecommendConfig(device="cpu", top=15)
GIVEN = pa.table({"user_id": ["x", "x", "y", "x", "z"], "item_id": ["i3", "i20", "i16", "i10", "gone"]})


@pytest.fixture(scope="module")
def known(trained: tuple[Path, Path]) -> Recommender:
    """The model beside the training set that it comes from."""
    data, run = trained
    return Recommender.load(data, run / "checkpoint", CFG)


@pytest.fixture(scope="module")
def folder(trained: tuple[Path, Path], known: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, run = trained
    out = tmp_path_factory.mktemp("exported") / "shop"
    export_model(out, data, run / "checkpoint", known)
    return out


def test_an_exported_model_gives_the_scores_of_the_one_in_the_lake(folder: Path, known: Recommender) -> None:
    here, there = (model.recommend(GIVEN, CFG) for model in (known, load_exported(folder, CFG)))
    assert here.recommendations == there.recommendations
    assert here.recommendations.num_rows == 3 * 30 - 4  # all items of both domains but those of the histories
    assert there.by_popularity == 1


def test_no_user_is_in_an_exported_model(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "catalogue", "config.json", "model.safetensors", "popularity.safetensors",
    ]  # fmt: skip
    rows = {path.name: pq.read_table(path).num_rows for path in (folder / "catalogue").iterdir()}
    assert {name: rows[name] for name in ("users", "sequences", "profile_vectors")} == {
        "users": 0, "sequences": 0, "profile_vectors": 0,
    }  # fmt: skip


def test_another_folder_is_no_exported_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no exported model: no folder 'catalogue'"):
        load_exported(tmp_path, CFG)


def test_popularity_of_other_items_is_refused(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    save_file({"counts": torch.zeros(32, 4)}, other / "popularity.safetensors")
    with pytest.raises(
        UserError, match=r"popularity\.safetensors .* tensor counts is 32 x 4 in it, and 31 x 4 in the net"
    ):
        load_exported(other, CFG)
    (other / "popularity.safetensors").unlink()
    with pytest.raises(UserError, match=r"popularity\.safetensors is corrupted"):
        load_exported(other, CFG)


@pytest.mark.parametrize("domain", ["a", "b"])
def test_the_points_of_users_and_items_multiply_to_the_scores(known: Recommender, domain: str) -> None:
    scores = known.scorer(np.arange(known.data.n_users), known.data.lengths, domain)
    [(users, points)] = user_points(known.scorer, domain)
    assert users.tolist() == list(range(known.data.n_users))
    assert torch.allclose(points @ item_points(known.scorer, domain).T, scores, atol=1e-4)


HISTORIES = torch.tensor([[3, 20, 10, 0, 0, 0, 0, 0], [16, 0, 0, 0, 0, 0, 0, 0], [0] * 8, [1, 2, 3, 4, 5, 6, 7, 8]])


def expected(known: Recommender) -> list[list[str]]:
    """Return the items of domain "b" for HISTORIES, best first, those of a history left out."""
    rows = [(str(user), f"i{item}") for user, items in enumerate(HISTORIES.tolist()) for item in items if item]
    given = pa.table({"user_id": [user for user, _ in rows], "item_id": [item for _, item in rows]})
    found = known.recommend(given, CFG, users=pa.array(list("0123")), domains=["b"]).recommendations.to_pylist()
    return [[row["item_id"] for row in found if row["user_id"] == user] for user in "0123"]


def ranked(scores: torch.Tensor) -> list[list[str]]:
    order = scores.argsort(dim=1, descending=True, stable=True)
    seen = [set(items) for items in HISTORIES.tolist()]
    return [[f"i{16 + at}" for at in row if 16 + at not in seen[user]] for user, row in enumerate(order.tolist())]


def test_histories_are_scored_alike_by_the_function_that_is_exported(known: Recommender) -> None:
    assert ranked(HistoryScorer(known.scorer, "b").eval()(HISTORIES)) == expected(known)


@pytest.mark.slow
def test_an_exported_program_ranks_as_the_model_does(known: Recommender, tmp_path: Path) -> None:
    export_scorer(known.scorer, "b", tmp_path / "scorer.pt2")
    program = torch.export.load(tmp_path / "scorer.pt2").module()
    assert ranked(program(HISTORIES)) == expected(known)
    assert ranked(program(HISTORIES[:1])) == expected(known)[:1]


@pytest.mark.slow
def test_an_onnx_program_ranks_as_the_model_does(known: Recommender, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    export_onnx(known.scorer, "b", tmp_path / "scorer.onnx")
    session = runtime.InferenceSession(tmp_path / "scorer.onnx", providers=["CPUExecutionProvider"])
    [scores] = session.run(["scores"], {"items": HISTORIES.numpy()})
    assert ranked(torch.from_numpy(scores)) == expected(known)
    [scores] = session.run(["scores"], {"items": HISTORIES.numpy()[:1]})
    assert ranked(torch.from_numpy(scores)) == expected(known)[:1]


def test_stored_users_are_served_as_every_night(known: Recommender) -> None:
    nobody = pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())})
    served = known.recommend(nobody, CFG, users=known.data.user_ids)
    assert served.recommendations == top_items(known.data, known.scorer, CFG)
