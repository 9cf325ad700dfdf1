"""What a run killed with SIGKILL leaves behind, and how the next run goes on."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data_lake.lake import Lake, Stage, StageIO
from data_lake.schemas import DOMAIN_PROFILES, REJECTS
from data_lake.stage_io import Make, Part
from data_lake.tables import empty

USERS = pa.table({"user_id": ["u0", "u1", "u2", "u3", "u4"], "domain": ["food"] * 5})


def profiles(asked: list[str], die_at: str | None = None, rows: pa.Table = USERS, **more: Any) -> Stage:
    """Return a stage that makes two users a shard, and kills its process when asked about `die_at`."""

    def make(chunk: pa.Table) -> pa.Table:
        users = chunk["user_id"].to_pylist()
        if die_at in users:
            signal.raise_signal(signal.SIGKILL)
        asked.extend(users)
        count = len(users)
        current_io[0].count(tokens=10 * count, failed={"cut off": count - 1})
        values = {"user_id": users, "domain": ["food"] * count, "text": [f"likes {user}" for user in users],
                  "evidence": [3] * count, "inferred": [False] * count, "seen": [2] * count, "forbidden": [3] * count,
                  "prompt_hash": users, "reply": users,
                  "status": ["ok"] * count, "reason": pa.nulls(count), "tokens_in": [1] * count,
                  "tokens_out": [1] * count, "tokens_cached": [0] * count, "dropped": [[]] * count}  # fmt: skip
        return pa.table(values)

    current_io: list[StageIO] = []

    def work(io: StageIO) -> None:
        current_io.append(io)
        io.sharded("domain_profiles", [Part.of(rows, make)], ["user_id", "domain"], rows_per_shard=2, **more)

    return Stage("profile_domains", 1, (), ("domain_profiles",), {}, work)


def two_tables() -> Stage:
    items = pa.table({"item_id": ["i"], "domain": ["d"], "title": ["tea"], "text": ["tea"]})

    def work(io: StageIO) -> None:
        io.write("items", items)
        io.write("rejects", empty(REJECTS))

    return Stage("ingest", 1, (), ("items", "rejects"), {}, work)


def run_and_kill(lake: Lake, code: str) -> None:
    """Run `code` over the lake in another process, and assert that it is killed."""
    here = Path(__file__).resolve()
    script = f"""
import signal, sys
sys.path[:0] = [{str(here.parent)!r}, {str(here.parents[2])!r}]
from test_resume import profiles, two_tables
from data_lake import lake as module, files, tables, stage_io, stores
lake = module.Lake({str(lake.home.parent)!r}, "shop")

def die_at_call(owner, name, number):
    real, calls = getattr(owner, name), []
    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            signal.raise_signal(signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(owner, name, call)

{code}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_run_keeps_its_finished_shards(lake: Lake, tmp_path: Path) -> None:
    run_and_kill(lake, "lake.run(profiles([], die_at='u4'))")
    assert lake.manifest("domain_profiles") is None
    asked: list[str] = []
    manifest = lake.run(profiles(asked))
    assert asked == ["u4"]
    assert manifest.figures == {
        "tokens": 50, "failed": {"cut off": 2}, "shards": 3, "shards_resumed": 2,
    }  # fmt: skip
    undisturbed = Lake(tmp_path / "other", "shop")
    assert (
        undisturbed.run(profiles([])).outputs["domain_profiles"].content == manifest.outputs["domain_profiles"].content
    )
    assert list((lake.home / "domain_profiles").glob(".*")) == []  # the shards are gone once published


def test_a_corrupted_shard_is_rebuilt(lake: Lake) -> None:
    run_and_kill(lake, "lake.run(profiles([], die_at='u4'))")
    shards = sorted((lake.home / "domain_profiles").glob(".shards-*/*.parquet"))
    assert len(shards) == 2
    (shards[0].parent / ".tmp-half").write_bytes(shards[0].read_bytes()[:40])
    corrupted = bytearray(shards[0].read_bytes())
    corrupted[20] ^= 255  # inside the first page: only its checksum can tell
    shards[0].write_bytes(corrupted)
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    asked: list[str] = []
    manifest = lake.run(profiles(asked))
    assert asked == ["u0", "u1", "u2", "u3", "u4"]
    assert manifest.figures["tokens"] == 50


def test_the_rows_of_an_only_part_are_read_once_and_what_makes_them_is_opened_once(lake: Lake) -> None:
    called: list[str] = []

    def rows() -> pa.Table:
        called.append("rows")
        ids = ["rice", "salt", "tea"]
        return pa.table({"item_id": ids, "domain": ["food"] * 3, "title": ids, "text": ids})

    def opened() -> Make:
        called.append("open")
        return lambda chunk: chunk

    def work(io: StageIO) -> None:
        io.sharded("items", [Part(rows, opened)], ["item_id"], rows_per_shard=1)

    lake.run(Stage("ingest", 1, (), ("items",), {}, work))
    assert called == ["rows", "open"]


def test_a_failed_shard_leaves_the_figures_of_the_others(lake: Lake) -> None:
    def fail(chunk: pa.Table) -> pa.Table:
        raise RuntimeError("engine died")

    def work(io: StageIO) -> None:
        io.count(before=1)
        with pytest.raises(RuntimeError):
            io.sharded("domain_profiles", [Part.of(USERS, fail)], ["user_id"], 2)
        assert io.figures == {"before": 1}
        io.write("domain_profiles", empty(DOMAIN_PROFILES))

    assert lake.run(Stage("profile_domains", 1, (), ("domain_profiles",), {}, work)).figures == {"before": 1}


def test_no_rows_make_no_shards_and_an_empty_table(lake: Lake) -> None:
    asked: list[str] = []
    lake.run(profiles(asked, rows=USERS.slice(0, 0)))
    assert asked == []
    assert lake.read("domain_profiles").num_rows == 0


def test_a_kill_before_publishing_shows_nothing_and_is_cleaned(lake: Lake) -> None:
    run_and_kill(lake, "die_at_call(stage_io, 'write_parts', 2)\nlake.run(two_tables())")
    assert [path.name[:5] for path in (lake.home / "items").iterdir()] == [".tmp-"]
    assert lake.state(two_tables()).kind == "missing"
    lake.clean()
    assert list((lake.home / "items").iterdir()) == []
    assert not lake.run(two_tables()).skipped


def test_after_a_kill_between_two_folders_the_next_run_makes_both(lake: Lake) -> None:
    run_and_kill(lake, "die_at_call(module, 'put_folder', 2)\nlake.run(two_tables())")
    assert lake.manifest("items") is None  # its folder has its name, but is not current
    assert not lake.run(two_tables()).skipped
    assert lake.state(two_tables()).kind == "fresh"
    assert lake.read("items").num_rows == 1


def test_after_a_kill_between_two_links_the_next_run_only_links(lake: Lake) -> None:
    run_and_kill(lake, "die_at_call(stores, 'put_link', 2)\nlake.run(two_tables())")
    assert lake.manifest("items") is not None
    assert lake.state(two_tables()).why == "rejects is not there"
    assert lake.run(two_tables()).skipped  # both folders are complete: only the link was missing
    assert lake.state(two_tables()).kind == "fresh"


def test_what_a_kill_after_publishing_left_is_cleaned(lake: Lake) -> None:
    lake.run(profiles([]))
    [artifact] = (lake.home / "domain_profiles").glob("[!.c]*")
    left_over = lake.home / "domain_profiles" / f".shards-{artifact.name}"
    left_over.mkdir()
    assert lake.leftovers([profiles([])]) == [left_over]
    lake.clean([profiles([])])
    assert sorted(path.name for path in (lake.home / "domain_profiles").iterdir()) == sorted([artifact.name, "current"])


def test_a_kill_while_replacing_leaves_the_old_artifact_current(lake: Lake) -> None:
    lake.run(two_tables())
    before = lake.path("items")
    newer = "import dataclasses\nnewer = dataclasses.replace(two_tables(), version=2)\n"
    run_and_kill(lake, newer + "die_at_call(files.os, 'replace', 1)\nlake.run(newer)")
    assert lake.path("items") == before
    assert lake.read("items").num_rows == 1


def test_a_discarded_shard_is_rebuilt_and_no_other(lake: Lake, items: Callable[..., pa.Table]) -> None:
    made: list[str] = []

    def work(io: StageIO) -> None:
        def make(chunk: pa.Table) -> pa.Table:
            [title] = chunk["title"].to_pylist()
            if title == "salt" and len(made) == 2:
                io.discard_shards(lambda shard: shard["title"].to_pylist() == ["tea"])
                raise RuntimeError("stop")
            made.append(title)
            return chunk

        io.sharded("items", [Part.of(items("rice", "tea", "salt"), make)], ["item_id"], rows_per_shard=1)

    stage = Stage("ingest", 1, (), ("items",), {}, work)
    with pytest.raises(RuntimeError):
        lake.run(stage)
    assert lake.run(stage).figures == {"shards": 3, "shards_resumed": 1}
    assert made == ["rice", "tea", "tea", "salt"]


def test_a_killed_rebuild_leaves_the_old_artifact_current_and_keeps_its_finished_shards(lake: Lake) -> None:
    before = lake.run(profiles([]))
    run_and_kill(lake, "lake.run(profiles([], die_at='u4'), rebuild=True)")
    assert lake.manifest("domain_profiles") == before
    assert lake.read("domain_profiles").num_rows == 5
    lake.clean([profiles([])])
    asked: list[str] = []
    manifest = lake.run(profiles(asked), rebuild=True)
    assert asked == ["u4"]
    assert manifest.figures["shards_resumed"] == 2
    assert list((lake.home / "domain_profiles").glob(".*")) == []
    assert lake.run(profiles(asked)).skipped


def test_a_killed_rebuild_goes_on_with_the_next_plain_run(lake: Lake) -> None:
    lake.run(profiles([]))
    run_and_kill(lake, "lake.run(profiles([], die_at='u4'), rebuild=True)")
    asked: list[str] = []
    assert not lake.run(profiles(asked)).skipped
    assert asked == ["u4"]


def test_a_rebuild_reuses_no_shard_of_the_run_before_it(lake: Lake) -> None:
    run_and_kill(lake, "lake.run(profiles([], die_at='u4'))")
    asked: list[str] = []
    lake.run(profiles(asked), rebuild=True)
    assert asked == ["u0", "u1", "u2", "u3", "u4"]


def test_after_a_kill_between_the_two_folders_of_a_rebuild_both_are_made(lake: Lake) -> None:
    lake.run(two_tables())
    run_and_kill(lake, "die_at_call(module, 'put_folder', 2)\nlake.run(two_tables(), rebuild=True)")
    assert lake.read("items").num_rows == 1
    assert lake.read("rejects").num_rows == 0
    assert not lake.run(two_tables()).skipped
    assert lake.state(two_tables()).kind == "fresh"


def test_a_review_reads_every_shard_also_a_resumed_one_and_changes_each_before_it_is_published(lake: Lake) -> None:
    run_and_kill(lake, "lake.run(profiles([], die_at='u4'))")
    read: list[list[str]] = []

    def review(shards: Iterable[pa.Table]) -> Callable[[pa.Table], pa.Table]:
        read.extend(shard["user_id"].to_pylist() for shard in shards)

        def change(shard: pa.Table) -> pa.Table:
            place = shard.schema.get_field_index("text")
            return shard.set_column(place, shard.schema.field(place), pa.array([f"of {len(read)}"] * shard.num_rows))

        return change

    lake.run(profiles([], review=review))
    assert read == [["u0", "u1"], ["u2", "u3"], ["u4"]]
    assert lake.read("domain_profiles")["text"].to_pylist() == ["of 3"] * 5
