"""What `import llm_edt` offers: an exported model, and the tables of a lake."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import llm_edt
from data_lake.lake import Lake, Stage
from data_lake.schemas import REJECTS
from model.config import RecommendConfig
from model.exported import export_model
from model.recommend import Recommender
from tests.model.conftest import trained  # noqa: F401


@pytest.fixture(scope="module")
def model(trained: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> llm_edt.Model:  # noqa: F811
    data, run = trained
    out = tmp_path_factory.mktemp("exported")
    export_model(out, data, run / "checkpoint", Recommender.load(data, run / "checkpoint", RecommendConfig()))
    return llm_edt.load(out, device="cpu")


def test_a_history_gets_the_best_items_of_a_domain_with_titles(model: llm_edt.Model) -> None:
    [found] = model.recommend([{"user": "u1", "items": ["i3", "i20"]}], domain="b", top=2)
    assert {name: found[name] for name in ("user", "domain", "unknown")} == {"user": "u1", "domain": "b", "unknown": 0}
    first, second = found["items"]
    assert first["score"] >= second["score"]
    assert first["title"] == f"item {first['item'][1:]}"
    assert "i20" not in (first["item"], second["item"])


def test_histories_stay_apart_and_in_order_whatever_their_users_are_called(model: llm_edt.Model) -> None:
    given = [{"user": "u", "items": ["i3"]}, {"items": []}, {"user": "u", "items": ["i20", "what", "i16"]}]
    found = model.recommend(given, top=1)
    assert [(each["user"], each["domain"], each["unknown"]) for each in found] == [
        ("u", "a", 0), ("u", "b", 0), (None, "a", 0), (None, "b", 0), ("u", "a", 1), ("u", "b", 1),
    ]  # fmt: skip
    alone = model.recommend(given[:1], top=1)
    assert [each["items"][0]["item"] for each in found[:2]] == [each["items"][0]["item"] for each in alone]
    assert model.recommend([]) == []


def test_only_what_is_allowed_and_not_denied_is_recommended(model: llm_edt.Model) -> None:
    [found] = model.recommend([{"items": ["i16"]}], domain="b", allow=["i17", "i18", "i1"], deny=["i18"])
    assert [each["item"] for each in found["items"]] == ["i17"]


def test_similar_items_are_told_per_domain(model: llm_edt.Model) -> None:
    found = model.similar("i3", top=2)
    assert [(row["domain"], row["rank"]) for row in found] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert "i3" not in [row["item_id"] for row in found]
    assert -1 <= found[1]["cosine"] <= found[0]["cosine"] <= 1
    assert model.similar("i3", 1, "b") == found[2:3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.recommend([{"items": []}], domain="c"), "There is no domain 'c'. The model knows a, b."),
        (lambda model: model.similar("nothing"), "There is no item 'nothing'."),
        (lambda model: llm_edt.load("nowhere"), "nowhere is no exported model"),
    ],
)
def test_what_a_person_can_mend_is_a_user_error(model: llm_edt.Model, call, message: str) -> None:
    with pytest.raises(llm_edt.UserError) as raised:
        call(model)
    assert message in str(raised.value)


def test_a_table_of_the_lake_is_a_lazy_frame(tmp_path: Path) -> None:
    rows = pa.table({"file": ["a.csv"], "line": [3], "kind": ["item"], "reason": ["no_item"], "row": ["{}"]})
    settings = 'dataset = "shop"\n[data]\ninteractions = "a.csv"\nitems = "b.csv"\n'
    (tmp_path / "edt.toml").write_text(settings)
    table = rows.cast(REJECTS.tables[""])
    stage = Stage("ingest", 1, (), ("rejects",), {}, lambda io: io.write("rejects", table))
    Lake(tmp_path / "data_lake" / "store", "shop").run(stage)
    lake = llm_edt.open_lake(tmp_path / "edt.toml")
    assert lake.table("rejects").select("line").collect().rows() == [(3,)]
    with pytest.raises(llm_edt.UserError, match="'items' has not been made"):
        lake.table("items")
    with pytest.raises(llm_edt.UserError, match="rejects has no table 'x'"):
        lake.table("rejects", "x")


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, llm_edt; assert not {'torch', 'polars', 'prefect', 'flows', 'model'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
