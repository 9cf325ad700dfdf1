"""`edt export`: a folder that recommends by itself, with vectors, lists and cards."""

import importlib.util
import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import llm_edt
from data_lake.errors import UserError
from flows.export import export
from flows.run import RunRequest


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "shop"
    export(RunRequest(config=finished.config), out)
    return out


def real_histories(lake):
    """Return the histories of users into whose sequences nothing was inserted."""
    table = lake.read("augmented_sequences").to_pylist()
    return [{"user": row["user_id"], "items": row["item_ids"]} for row in table if not any(row["synthetic"])]


def test_a_loaded_model_serves_the_lists_and_scores_of_the_stage_recommend(finished, exported):
    histories = real_histories(finished.lake)
    assert histories
    served = llm_edt.load(exported, device="cpu").recommend(histories, top=10)
    lines = map(json.loads, (exported / "recommendations" / "recommendations.jsonl").open())
    nightly = {(line["user"], line["domain"]): line["items"] for line in lines}
    for each in served:
        expected = nightly[each["user"], each["domain"]]
        assert [item["item"] for item in each["items"]] == [item["item"] for item in expected]
        scores = [item["score"] for item in each["items"]]
        assert scores == pytest.approx([item["score"] for item in expected], abs=1e-4)


def test_exported_vectors_multiply_to_the_scores_and_the_index_finds_them(finished, exported):
    faiss = pytest.importorskip("faiss")
    items = pq.read_table(exported / "vectors" / "items.parquet").filter(
        pq.filters_to_expression([("domain", "==", "food")])
    )
    users = pq.read_table(exported / "vectors" / "users.parquet")
    user = next(row for row in users.to_pylist() if row["domain"] == "food")
    query = np.array([user["vector"]], np.float32)
    lists = finished.lake.read("recommendations").to_pylist()
    scores = dict(zip(items["item_id"].to_pylist(), np.array(items["vector"].to_pylist()) @ query[0], strict=True))
    for row in (row for row in lists if row["user_id"] == user["user_id"] and row["domain"] == "food"):
        assert scores[row["item_id"]] == pytest.approx(row["score"], abs=1e-3)
    about = json.loads((exported / "vectors" / "index.json").read_text())
    [food] = [each for each in about if each["domain"] == "food"]
    assert (food["items"], food["users_checked"], food["recall_at_10"]) == (items.num_rows, 50, 1.0)
    _, found = faiss.read_index(str(exported / "vectors" / food["file"])).search(query, 1)
    assert items["item_id"][int(found[0, 0])].as_py() == max(scores, key=scores.get)


def test_an_index_of_many_items_is_a_graph_whose_recall_is_measured(finished, tmp_path):
    faiss = pytest.importorskip("faiss")
    export(RunRequest(config=finished.config, overrides=("enrich.exact_up_to=10",)), tmp_path / "out")
    food = json.loads((tmp_path / "out" / "vectors" / "index.json").read_text())[0]
    index = faiss.read_index(str(tmp_path / "out" / "vectors" / food["file"]))
    assert (index.ntotal, index.hnsw.efSearch) == (food["items"], 256)
    assert food["recall_at_10"] == 1.0  # more candidates are looked at than there are items


def test_the_model_card_is_filled_from_the_manifests(finished, exported):
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: llm-edt\n")
    ours = [
        row for row in finished.lake.read("metrics").to_pylist() if row["phase"] == "finetune" and row["domain"] is None
    ]
    [row] = [
        row for row in ours
        if (row["split"], row["protocol"], row["group"], row["metric"]) == ("test", "full", "all", "HR@10")
    ]  # fmt: skip
    assert f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" in card
    assert "None: items were inserted by the generator `retrieval`, which asks no language model." in card
    assert "licence apache-2.0" in card  # of the text encoder
    assert "split by leave-one-out" in card
    data = (exported / "DATASET_CARD.md").read_text()
    manifest = finished.lake.manifest("interactions")
    assert all(digest in data for digest in manifest.sources.values())
    assert str(finished.folder) not in card + data


def test_without_faiss_all_else_is_written_and_it_is_said(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    export(RunRequest(config=finished.config), tmp_path / "out")
    assert "No index is written, as faiss is not installed: install the extra `index`" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out" / "vectors").iterdir()) == [
        "index.json", "items.parquet", "users.parquet",
    ]  # fmt: skip


def test_an_export_replaces_an_earlier_one_and_nothing_else(finished, exported, tmp_path):
    (exported / "stray").touch()
    export(RunRequest(config=finished.config), exported)
    assert not (exported / "stray").exists()
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="is there already and no earlier export"):
        export(RunRequest(config=finished.config), tmp_path)
    assert (tmp_path / "mine").exists()


@pytest.mark.slow
def test_programs_of_torch_export_are_written_where_they_are_asked_for(finished, tmp_path):
    lines = export(RunRequest(config=finished.config), tmp_path / "out", with_scorers=True)
    about = json.loads((tmp_path / "out" / "scorers" / "scorers.json").read_text())
    with_onnx = all(map(importlib.util.find_spec, ("onnx", "onnxscript")))
    assert [each["domain"] for each in about] == [each for each in ("food", "kitchen") for _ in range(1 + with_onnx)]
    assert all((tmp_path / "out" / "scorers" / each["file"]).is_file() for each in about)
    assert lines[-1 - with_onnx].endswith("scorer-1.pt2: torch.export, kitchen")
