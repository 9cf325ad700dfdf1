import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_lake.errors import DataRefused, HeldBack, UserError
from data_lake.lake import Lake, Stage, StageIO
from data_lake.schemas import PRETRAINED, REJECTS, TRAINING_SET
from data_lake.tables import SchemaError, empty, read_tables, write_parts

Items = Callable[..., pa.Table]
Writes = Callable[..., Stage]


def embeddings(items: pa.Table) -> pa.Table:
    count = items.num_rows
    return pa.table(
        {
            "item_id": items["item_id"],
            "domain": items["domain"],
            "vector": [[float(len(title or ""))] for title in items["title"].to_pylist()],
            "model": ["length"] * count,
            "revision": ["1"] * count,
        }
    )


def test_a_stage_runs_once_and_is_skipped_after(lake: Lake, items: Items, writes: Writes) -> None:
    stage = writes("ingest", {"items": items("tea", "pan")})
    assert lake.state(stage).kind == "missing"
    assert lake.state(stage).why == "never made"
    first = lake.run(stage)
    assert (first.skipped, first.outputs["items"].rows) == (False, 2)
    second = lake.run(stage)
    assert (second.skipped, second.why) == (True, "nothing has changed")
    assert lake.read("items")["title"].to_pylist() == ["tea", "pan"]
    assert lake.read("items", columns=["item_id"]).to_pydict() == {"item_id": ["i0", "i1"]}


def test_polars_and_duckdb_open_an_artifact_by_a_plain_path(lake: Lake, items: Items, writes: Writes) -> None:
    lake.run(writes("ingest", {"items": items("tea", "pan")}))
    path = f"{lake.home.parent}/shop/items/current/*.parquet"
    assert pl.read_parquet(path)["title"].to_list() == ["tea", "pan"]
    assert duckdb.sql(f"SELECT title FROM '{path}' ORDER BY item_id").fetchall() == [("tea",), ("pan",)]
    assert os.readlink(f"{lake.home.parent}/shop/items/current") == lake.path("items").name


def test_the_changed_setting_is_named(lake: Lake, items: Items, writes: Writes) -> None:
    tables = {"items": items("tea")}
    lake.run(writes("ingest", tables, settings={"profile": {"words": 50, "tone": "dry"}, "old": 1}))
    changed = writes("ingest", tables, settings={"profile": {"words": 80, "tone": "dry"}, "new": None})
    state = lake.state(changed)
    assert state.kind == "stale"
    assert state.why == "; ".join(
        ["settings: new (not set) -> null", "settings: old 1 -> (not set)", "settings: profile.words 50 -> 80"]
    )
    assert not lake.run(changed).skipped


def test_a_new_version_makes_stale(lake: Lake, items: Items, writes: Writes) -> None:
    stage = writes("ingest", {"items": items("tea")})
    lake.run(stage)
    newer = Stage("ingest", 2, (), ("items",), {}, stage.work)
    assert lake.state(newer).why == "version 1 -> 2"


@pytest.mark.parametrize("keep_time", [True, False])
def test_what_is_made_of_a_source_that_changed_while_it_was_read_is_not_published(
    lake: Lake, items: Items, tmp_path: Path, keep_time: bool
) -> None:
    source = tmp_path / "items.csv"
    source.write_text("tea")
    edits = ["pan"]

    def work(io: StageIO) -> None:
        time = source.stat().st_mtime_ns
        source.write_text(edits.pop() if edits else source.read_text())
        if keep_time:
            os.utime(source, ns=(time, time))
        io.write("items", items(source.read_text()))

    stage = Stage("ingest", 1, (), ("items",), {}, work, (source,))
    lake.run(Stage("ingest", 1, (), ("items",), {"a": 1}, lambda io: io.write("items", items("tea")), (source,)))
    before = lake.manifest("items")
    with pytest.raises(UserError, match=r"items\.csv: changed while it was read\. Nothing was published"):
        lake.run(stage)
    assert lake.manifest("items") == before
    manifest = lake.run(stage)
    assert manifest.sources == {str(source): hashlib.sha256(b"pan").hexdigest()}
    assert lake.read("items")["title"].to_pylist() == ["pan"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', "\ud800"])
def test_what_is_remembered_of_sources_may_be_lost(
    lake: Lake, items: Items, writes: Writes, tmp_path: Path, text: str
) -> None:
    source = tmp_path / "items.csv"
    source.write_text("a,b")
    stage = writes("ingest", {"items": items("tea")}, sources=(source,))
    lake.run(stage)
    (lake.home / ".sources.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert lake.state(stage).kind == "fresh"


def test_a_changed_source_makes_stale_and_a_touched_one_does_not(
    lake: Lake, items: Items, writes: Writes, tmp_path: Path
) -> None:
    source = tmp_path / "items.csv"
    source.write_text("a,b")
    stage = writes("ingest", {"items": items("tea")}, sources=(source,))
    lake.run(stage)
    os.utime(source, ns=(0, 0))
    assert lake.state(stage).kind == "fresh"
    source.write_text("a,c")
    assert lake.state(stage).why == "source items.csv changed"
    source.unlink()
    assert lake.state(stage).blocked == (str(source),)
    with pytest.raises(UserError, match=r"Stage 'ingest' needs .*items.csv, which is not there"):
        lake.run(stage)


def test_the_fingerprint_knows_no_paths(tmp_path: Path, items: Items, writes: Writes) -> None:
    fingerprints = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "items.csv").write_text("a,b")
        stage = writes("ingest", {"items": items("tea")}, sources=(tmp_path / name / "items.csv",))
        fingerprints.append(Lake(tmp_path / name / "store", "shop").run(stage).fingerprint)
    assert fingerprints[0] == fingerprints[1]


def test_only_new_content_of_an_input_makes_stale(lake: Lake, items: Items, writes: Writes) -> None:
    def embed(titles: pa.Table) -> Stage:
        return writes("embed_items", {"item_embeddings": embeddings(titles)}, reads=("items",))

    lake.run(writes("ingest", {"items": items("tea")}))
    lake.run(embed(items("tea")))
    lake.run(writes("ingest", {"items": items("tea")}, settings={"seed": 2}))  # rebuilt, the same bytes
    assert lake.state(embed(items("tea"))).kind == "fresh"
    lake.run(writes("ingest", {"items": items("coffee")}, settings={"seed": 3}))
    assert lake.state(embed(items("tea"))).why == "input items changed"


def test_a_missing_input_blocks_a_stage_and_is_named(lake: Lake, items: Items, writes: Writes) -> None:
    stage = writes("embed_items", {"item_embeddings": embeddings(items("tea"))}, reads=("items",))
    assert lake.state(stage).blocked == ("items",)
    with pytest.raises(UserError, match="Stage 'embed_items' needs items, which is not there"):
        lake.run(stage)


@pytest.mark.parametrize(
    ("corrupt", "why"),
    [
        (lambda path: path.unlink(), "items/part-00000.parquet is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "items/part-00000.parquet: size differs"),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), "items/part-00000.parquet: content differs"),
        (lambda path: shutil.copy(path, path.with_name("part-00001.parquet")), "items/part-00001.parquet was added"),
    ],
)
def test_a_corrupted_file_is_named_and_rebuilt(
    lake: Lake, items: Items, writes: Writes, corrupt: Callable[[Path], object], why: str
) -> None:
    stage = writes("ingest", {"items": items("tea")})
    lake.run(stage)
    corrupt(lake.path("items") / "part-00000.parquet")
    assert (lake.state(stage).kind, lake.state(stage).why) == ("stale", why)
    assert not lake.run(stage).skipped
    assert lake.read("items")["title"].to_pylist() == ["tea"]
    assert lake.state(stage).kind == "fresh"


def test_a_copied_lake_is_fresh_though_its_times_differ(
    lake: Lake, items: Items, writes: Writes, tmp_path: Path
) -> None:
    stage = writes("ingest", {"items": items("tea")})
    lake.run(stage)
    shutil.copytree(lake.home.parent, tmp_path / "copy", symlinks=True, copy_function=shutil.copyfile)
    assert Lake(tmp_path / "copy", "shop").state(stage).kind == "fresh"


def test_a_corruption_that_keeps_size_and_time_is_found_when_a_stage_reads(
    lake: Lake, items: Items, writes: Writes
) -> None:
    lake.run(writes("ingest", {"items": items("tea")}))
    path = lake.path("items") / "part-00000.parquet"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert lake.find_alteration("items", full=True) == "part-00000.parquet: content differs"
    with pytest.raises(UserError, match=r"items/part-00000\.parquet: content differs: .* with --rerun ingest\."):
        lake.run(writes("embed_items", {"item_embeddings": embeddings(items("tea"))}, reads=("items",)))


@pytest.mark.parametrize("text", ["", '{"stage": "ing', "{}", "\x00" * 100])
def test_an_artifact_whose_manifest_cannot_be_read_is_missing_and_rebuilt(
    lake: Lake, items: Items, writes: Writes, text: str
) -> None:
    stage = writes("ingest", {"items": items("tea")})
    lake.run(stage)
    (lake.path("items") / "manifest.json").write_text(text)
    assert lake.state(stage).kind == "missing"
    assert not lake.run(stage).skipped
    assert lake.read("items")["title"].to_pylist() == ["tea"]


def test_going_back_to_earlier_settings_rebuilds_nothing(lake: Lake, items: Items, writes: Writes) -> None:
    one = writes("ingest", {"items": items("tea")}, settings={"seed": 1})
    two = writes("ingest", {"items": items("pan")}, settings={"seed": 2})
    lake.run(one)
    lake.run(two)
    back = lake.run(one)
    assert (back.skipped, back.why) == (True, "made before with these settings and inputs")
    assert lake.read("items")["title"].to_pylist() == ["tea"]


def test_the_last_fingerprints_are_kept_and_the_current_one_always(
    tmp_path: Path, items: Items, writes: Writes
) -> None:
    lake = Lake(tmp_path, "shop", keep=2)
    runs = [lake.run(writes("ingest", {"items": items("tea")}, settings={"seed": seed})) for seed in range(4)]
    folders = {path.name for path in (tmp_path / "shop" / "items").iterdir()} - {"current"}
    assert folders == {runs[2].fingerprint, runs[3].fingerprint}
    assert lake.path("items").name == runs[3].fingerprint


def test_what_something_current_was_made_from_is_kept_until_that_is_made_anew(
    tmp_path: Path, items: Items, writes: Writes
) -> None:
    lake = Lake(tmp_path, "shop", keep=1)

    def embed() -> Stage:
        def work(io: StageIO) -> None:
            io.write("item_embeddings", embeddings(io.read("items")))

        return Stage("embed_items", 1, ("items",), ("item_embeddings",), {}, work)

    def kept() -> set[str]:
        return {path.name for path in (tmp_path / "shop" / "items").iterdir()} - {"current"}

    read = lake.run(writes("ingest", {"items": items("tea")}))
    lake.run(embed())
    lake.run(writes("ingest", {"items": items("pan")}, settings={"seed": 1}))
    newest = lake.run(writes("ingest", {"items": items("pot")}, settings={"seed": 2}))
    assert kept() == {read.fingerprint, newest.fingerprint}
    folder = lake.path_as_read("items", by="item_embeddings")
    assert folder is not None
    assert folder.name == read.fingerprint
    lake.run(embed())
    assert kept() == {newest.fingerprint}


class Holding:
    """A stage whose work is held back while `holds`; `trained` counts how often it began from nothing.

    `checked` is what was looked at before it became current.
    """

    def __init__(self) -> None:
        self.holds, self.trained, self.checked = False, 0, list[str]()

    def stage(self, seed: int) -> Stage:
        def work(io: StageIO) -> None:
            folder = io.folder("pretrained")
            if not (folder / "part-00000.parquet").exists():
                self.trained += 1
                pq.write_table(empty(PRETRAINED), folder / "part-00000.parquet")
                (folder / "weights").write_text(str(seed))

        def check(_io: StageIO, folders: Mapping[str, Path]) -> None:
            self.checked.append((folders["pretrained"] / "weights").read_text())
            if self.holds:
                raise HeldBack("it is worse", "Do something.")

        return Stage("pretrain", 1, (), ("pretrained",), {"seed": seed}, work, check=check)


def test_held_back_work_leaves_the_current_artifacts_and_says_why_until_it_is_published(lake: Lake) -> None:
    it = Holding()
    before = lake.run(it.stage(0))
    it.holds = True
    for _ in range(2):
        with pytest.raises(HeldBack, match=r"it is worse\. Do something\."):
            lake.run(it.stage(1))
    assert lake.path("pretrained").name == before.fingerprint
    assert lake.state(it.stage(1)).why == "it is worse; settings: seed 0 -> 1"
    assert lake.state(it.stage(2)).why == "settings: seed 0 -> 2"
    assert [lake.held_back(it.stage(seed)) for seed in (0, 1, 2)] == ["", "it is worse", ""]
    it.holds = False
    lake.run(it.stage(1))
    assert it.trained == 2  # the finished work was taken up
    assert (lake.path("pretrained") / "weights").read_text() == "1"
    assert lake.state(it.stage(1)).kind == "fresh"


def test_what_was_made_before_is_checked_too_before_it_becomes_current_again(lake: Lake) -> None:
    it = Holding()
    lake.run(it.stage(0))
    now = lake.run(it.stage(1))
    it.holds = True
    with pytest.raises(HeldBack, match="it is worse"):
        lake.run(it.stage(0))
    assert lake.path("pretrained").name == now.fingerprint
    assert lake.held_back(it.stage(0)) == "it is worse"
    it.holds = False
    assert lake.run(it.stage(0)).why == "made before with these settings and inputs"
    assert lake.run(it.stage(0)).why == "nothing has changed"
    assert it.trained == 2
    assert it.checked == ["0", "1", "0", "0"]


def test_a_failing_stage_leaves_the_current_artifacts(lake: Lake, items: Items, writes: Writes) -> None:
    lake.run(writes("ingest", {"items": items("tea")}))

    def work(io: StageIO) -> None:
        io.write("items", items("pan"))
        io.write("rejects", items("pan"))

    with pytest.raises(SchemaError, match="rejects: column 'file' is missing"):
        lake.run(Stage("ingest", 2, (), ("items", "rejects"), {}, work))
    assert lake.read("items")["title"].to_pylist() == ["tea"]
    assert sorted(path.name for path in (lake.home / "items").iterdir()) == sorted(["current", lake.path("items").name])


def test_a_stage_touches_only_what_it_declares(lake: Lake, items: Items) -> None:
    def stage(work: Callable[[StageIO], object]) -> Stage:
        return Stage("s", 1, (), ("items",), {}, work)

    for work, message in [
        (lambda io: io.read("sequences"), "does not say that it reads sequences"),
        (lambda io: io.write("sequences", items("tea")), "does not say that it makes sequences"),
        (lambda io: None, "wrote nothing of it"),
    ]:
        with pytest.raises(ValueError, match=message):
            lake.run(stage(work))


def test_a_rebuild_makes_a_fresh_stage_once_more_and_keeps_the_caches(lake: Lake, items: Items) -> None:
    titles = iter(["tea", "pan", "pot"])
    stage = Stage("ingest", 1, (), ("items",), {}, lambda io: io.write("items", items(next(titles))))
    lake.run(stage)
    lake.keyed_cache("replies").put(pa.table({"key": ["k"], "text": ["t"]}))
    lake.request_rebuild(stage)
    assert (lake.state(stage).kind, lake.state(stage).why) == ("stale", "a rebuild was requested")
    assert lake.read("items")["title"].to_pylist() == ["tea"]
    assert not lake.run(stage).skipped
    assert lake.read("items")["title"].to_pylist() == ["pan"]
    assert lake.run(stage).skipped  # once is enough
    assert not lake.run(stage, rebuild=True).skipped
    assert lake.read("items")["title"].to_pylist() == ["pot"]
    assert lake.keyed_cache("replies").get(["k"]).num_rows == 1
    assert sorted(path.name for path in (lake.home / "items").iterdir()) == sorted(["current", lake.path("items").name])


def test_a_rebuild_reuses_no_earlier_run_of_the_settings(lake: Lake, items: Items, writes: Writes) -> None:
    one = writes("ingest", {"items": items("tea")}, settings={"seed": 1})
    lake.run(one)
    lake.run(writes("ingest", {"items": items("pan")}, settings={"seed": 2}))
    assert not lake.run(one, rebuild=True).skipped


def test_a_failed_rebuild_leaves_the_current_artifacts(lake: Lake, items: Items) -> None:
    def work(io: StageIO) -> None:
        io.write("items", items("tea"))
        if lake.manifest("items"):
            raise RuntimeError("out of memory")

    stage = Stage("ingest", 1, (), ("items",), {}, work)
    lake.run(stage)
    with pytest.raises(RuntimeError):
        lake.run(stage, rebuild=True)
    assert lake.read("items")["title"].to_pylist() == ["tea"]
    assert lake.state(stage).why == "a rebuild was requested"  # the next run tries again


def rejects(*rows: str) -> pa.Table:
    lines = list(range(2, len(rows) + 2))
    columns = {"file": "items.csv", "kind": "item", "reason": "no_domain"}
    constant = {name: [value] * len(rows) for name, value in columns.items()}
    return pa.table({**constant, "line": pa.array(lines, pa.int64()), "row": pa.array(rows, pa.string())})


def refusing(*rows: str) -> Stage:
    """Return an ingest that stops at bad rows, and says which, or succeeds if there are none."""

    def work(io: StageIO) -> None:
        if rows:
            raise DataRefused(f"{len(rows)} rows are bad", {"rejects": [rejects(*rows)]})
        io.write("rejects", empty(REJECTS))

    return Stage("ingest", 1, (), ("rejects",), {"rows": rows}, work)


def test_a_failed_stage_leaves_the_rows_that_made_it_fail_and_nothing_current(lake: Lake) -> None:
    with pytest.raises(DataRefused, match="2 rows are bad"):
        lake.run(refusing("f1,", "f2,"))
    found = lake.failed_run("rejects")
    assert found is not None
    folder, manifest = found
    assert (manifest.error, manifest.outputs["rejects"].rows) == ("2 rows are bad", 2)
    assert read_tables(folder, REJECTS)["row"].to_pylist() == ["f1,", "f2,"]
    assert lake.manifest("rejects") is None
    assert lake.state(refusing("f1,", "f2,")).kind == "missing"


def test_the_evidence_of_a_failed_run_goes_with_the_next_success(lake: Lake) -> None:
    lake.run(refusing())
    for rows in (("f1,", "f2,"), ("f3,",)):
        with pytest.raises(DataRefused):
            lake.run(refusing(*rows))
        assert lake.read("rejects").num_rows == 0  # the current artifact stays as it was
    found = lake.failed_run("rejects")
    assert found is not None
    assert read_tables(found[0], REJECTS)["row"].to_pylist() == ["f3,"]
    assert lake.run(refusing()).skipped
    assert lake.failed_run("rejects") is None


def test_the_manifest_of_a_successful_run_says_nothing_of_errors(lake: Lake) -> None:
    lake.run(refusing())
    assert "error" not in json.loads((lake.path("rejects") / "manifest.json").read_text())


def test_the_evidence_of_a_failed_run_counts_as_no_fingerprint_to_keep(tmp_path: Path) -> None:
    lake = Lake(tmp_path, "shop", keep=1)
    lake.run(refusing())
    with pytest.raises(DataRefused):
        lake.run(refusing("f1,"))
    assert sorted(path.name for path in (lake.home / "rejects").iterdir()) == sorted(
        ["current", "failed", lake.path("rejects").name]
    )


def test_a_stage_knows_that_it_was_asked_to_be_made_anew(lake: Lake, items: Items) -> None:
    asked = []

    def work(io: StageIO) -> None:
        asked.append(io.is_rebuild)
        io.write("items", items("tea"))

    for rebuild in (False, True):
        lake.run(Stage("ingest", 1, (), ("items",), {}, work), rebuild)
    assert asked == [False, True]


def test_the_manifest_says_what_was_read_made_and_counted(lake: Lake, items: Items, writes: Writes) -> None:
    lake.run(writes("ingest", {"items": items("tea", "pan")}))

    def work(io: StageIO) -> None:
        io.write("item_embeddings", embeddings(io.read("items")))
        io.count(texts=2, failed={"empty": 1})
        io.count(texts=3, failed={"empty": 1, "long": 1}, told="once")
        io.count(told="twice")

    lake.run(Stage("embed_items", 1, ("items",), ("item_embeddings",), {"batch": 8}, work))
    written = json.loads((lake.path("item_embeddings") / "manifest.json").read_text())
    assert written["stage"] == "embed_items"
    assert written["settings"] == {"batch": 8}
    source = lake.manifest("items")
    assert source is not None
    assert written["inputs"] == {"items": {"content": source.outputs["items"].content, "rows": 2}}
    file = written["outputs"]["item_embeddings"]["files"]["part-00000.parquet"]
    assert (file["rows"], file["bytes"]) == (2, (lake.path("item_embeddings") / "part-00000.parquet").stat().st_size)
    assert written["figures"] == {"texts": 5, "failed": {"empty": 2, "long": 1}, "told": "twice"}
    assert written["versions"]["pyarrow"] == pa.__version__
    assert "skipped" not in written


def test_tables_of_one_artifact_lie_in_folders_of_their_own(lake: Lake) -> None:
    tables: dict[str, dict[str, Any]] = {
        "sequences": {
            "user": [1],
            "items": [[1]],
            "times": [[0]],
            "splits": [[0]],
            "synthetic": [[False]],
            "weights": [[0]],
        },
        "users": {"user": [1], "user_id": ["u"], "key": [2**64 - 1]},
        "items": {"item": [1], "item_id": ["a"], "domain": ["d"], "title": [None], "train_actions": [1], "key": [5]},
        "item_vectors": {"item": [1], "vector": [[1.0, 2.0]]},
        "profile_vectors": {"user": [], "scope": [], "vector": []},
        "info": {"contract_version": [3], "candidates_seed": [7], "domains": [["d"]], "times": ["real"]},
    }

    types = {name: None if name == "item_vectors" else kind for name, kind in TRAINING_SET.tables.items()}

    def work(only: set[str]) -> Callable[[StageIO], None]:
        def write(io: StageIO) -> None:
            for name in only:
                io.write("training_set", pa.table(tables[name], schema=types[name]), name)

        return write

    with pytest.raises(SchemaError, match="training_set/info: no Parquet file"):
        lake.run(Stage("assemble", 1, (), ("training_set",), {}, work(tables.keys() - {"info"})))
    lake.run(Stage("assemble", 1, (), ("training_set",), {}, work(set(tables))))
    assert sorted(path.name for path in lake.path("training_set").iterdir()) == sorted([*tables, "manifest.json"])
    assert lake.read("training_set", "users")["key"].to_pylist() == [2**64 - 1]
    assert lake.read("training_set", "profile_vectors").num_rows == 0


def history(folder: Path, *losses: float) -> None:
    rows = [
        {"epoch": epoch, "loss": loss, "next_item_loss": loss, "align_loss": 0.0, "learning_rate": 0.1,
         "protocol": "full", "metric": "NDCG@10", "value": 0.5, "best": True}
        for epoch, loss in enumerate(losses, 1)
    ]  # fmt: skip
    write_parts(pa.Table.from_pylist(rows, schema=PRETRAINED.tables[""]), folder)
    (folder / "part-00000.parquet").rename(folder / "history.parquet")


def test_a_folder_of_files_survives_a_failed_run_and_is_published_complete(lake: Lake) -> None:
    seen: list[list[str]] = []

    def stage(fails: bool, settings: dict[str, int] | None = None) -> Stage:
        def work(io: StageIO) -> None:
            folder = io.folder("pretrained")
            seen.append(sorted(path.name for path in folder.iterdir()))
            (folder / "model.safetensors").write_bytes(b"weights")
            if fails:
                raise RuntimeError("out of memory")
            history(folder, 2.0, 1.0)
            (folder / "logs").mkdir()
            (folder / "logs" / "events.json").write_text("{}")

        return Stage("pretrain", 1, (), ("pretrained",), settings or {}, work)

    with pytest.raises(RuntimeError):
        lake.run(stage(True))
    lake.clean([stage(True)])
    manifest = lake.run(stage(False))
    assert seen == [[], ["model.safetensors"]]
    assert list(manifest.outputs["pretrained"].files) == ["history.parquet", "logs/events.json", "model.safetensors"]
    assert lake.read("pretrained", columns=["loss"])["loss"].to_pylist() == [2.0, 1.0]
    with pytest.raises(RuntimeError):
        lake.run(stage(True, {"epochs": 9}))
    lake.clean([stage(True)])  # nobody asks for nine epochs any more
    assert sorted(path.name for path in (lake.home / "pretrained").iterdir()) == sorted(
        ["current", manifest.fingerprint]
    )


def test_work_that_waits_for_its_inputs_outlives_cleaning(lake: Lake, items: Items, writes: Writes) -> None:
    lake.run(writes("ingest", {"items": items("tea")}))

    def work(io: StageIO) -> None:
        (io.folder("pretrained") / "model.safetensors").write_bytes(b"weights")
        raise RuntimeError("killed")

    train = Stage("pretrain", 1, ("items",), ("pretrained",), {}, work)
    with pytest.raises(RuntimeError):
        lake.run(train)
    ingest = writes("ingest", {"items": items("tea")}, settings={"seed": 2})  # to be made; may well give the same
    lake.clean([ingest, train])
    assert len(list((lake.home / "pretrained").glob(".work-*"))) == 1
    lake.run(writes("ingest", {"items": items("pan")}, settings={"seed": 2}))
    lake.clean([ingest, train])
    assert list((lake.home / "pretrained").glob(".work-*")) == []


def test_artifacts_of_two_runs_are_not_taken_for_one(lake: Lake, items: Items, writes: Writes) -> None:
    stage = writes("ingest", {"items": items("tea"), "rejects": empty(REJECTS)})
    lake.run(stage)
    path = lake.path("rejects") / "manifest.json"
    path.write_text(path.read_text().replace('"started": "20', '"started": "19'))
    assert lake.state(stage).why == "items, rejects are not from one run"
    assert not lake.run(stage).skipped


def test_reading_an_artifact_that_was_never_made_says_so(lake: Lake) -> None:
    with pytest.raises(UserError, match="'items' has not been made in dataset 'shop'"):
        lake.path("items")
    with pytest.raises(
        UserError, match=r"no artifact 'itmes'\. Did you mean 'items'\? The artifacts are interactions, "
    ):
        lake.path("itmes")


def test_current_that_leads_out_of_the_lake_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "items"
    folder.mkdir(parents=True)
    (folder / "current").symlink_to("../../elsewhere")
    with pytest.raises(UserError, match=r"items/current names '\.\./\.\./elsewhere', which is no fingerprint"):
        Lake(tmp_path, "shop").manifest("items")


def test_a_folder_where_the_manifest_should_be_is_no_artifact(tmp_path: Path) -> None:
    fingerprint = "a" * 64
    (tmp_path / "shop" / "items" / fingerprint / "manifest.json").mkdir(parents=True)
    (tmp_path / "shop" / "items" / "current").symlink_to(fingerprint)
    assert Lake(tmp_path, "shop").manifest("items") is None
