"""A lake on an object store, with fsspec's in-memory file system as the store and two folders as two machines."""

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data_lake.errors import DataRefused, UserError
from data_lake.lake import Lake, Stage, StageIO
from data_lake.schemas import ITEM_EMBEDDINGS, PRETRAINED, REJECTS
from data_lake.tables import empty, read_tables
from tests.data_lake.writers import one_of_many_gets_the_lock

Items = Callable[..., pa.Table]
Writes = Callable[..., Stage]


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}"


def history(folder: Path) -> None:
    """Write a history of no epoch, as a trainer would into an artifact's folder."""
    pq.write_table(PRETRAINED.tables[""].empty_table(), folder / "history.parquet")


def objects(url: str) -> list[str]:
    """Return the names of all objects but locks."""
    return [name for name in _names(url) if not name.startswith(".lock")]


def locks(url: str) -> list[str]:
    return [name for name in _names(url) if name.startswith(".lock")]


def _names(url: str) -> list[str]:
    fs = fsspec.filesystem("memory")
    return sorted(path.split("/shop/")[1] for path in fs.find(url.removeprefix("memory:/")))


FIRST_LOCK, SECOND_LOCK, THIRD_LOCK = (f".lock-{number:012d}" for number in (1, 2, 3))


def put_lock(url: str, name: str, **held: Any) -> None:
    fsspec.filesystem("memory").pipe(f"{url}/shop/{name}", json.dumps({"since": "2026", **held}).encode())


def test_an_artifact_made_on_one_machine_is_fresh_and_read_on_another(
    here: Lake, there: Lake, items: Items, writes: Writes, url: str
) -> None:
    stage = writes("ingest", {"items": items("tea", "pan")})
    fingerprint = here.run(stage).fingerprint
    assert objects(url) == [
        f"items/{fingerprint}/manifest.json",
        f"items/{fingerprint}/part-00000.parquet",
        "items/current",
    ]
    assert fsspec.filesystem("memory").cat(f"{url}/shop/items/current") == f"{fingerprint}\n".encode()
    assert there.state(stage).kind == "fresh"
    assert list(there.home.rglob("*.parquet")) == []  # a look at the state downloads no data
    assert there.run(stage).skipped
    assert there.read("items")["title"].to_pylist() == ["tea", "pan"]
    assert there.find_alteration("items", full=True) == ""


def test_a_lost_or_cut_object_is_named_and_rebuilt(here: Lake, items: Items, writes: Writes, url: str) -> None:
    stage = writes("ingest", {"items": items("tea")})
    fingerprint = here.run(stage).fingerprint
    fsspec.filesystem("memory").pipe(f"{url}/shop/items/{fingerprint}/part-00000.parquet", b"cut")
    assert here.state(stage).why == "items/part-00000.parquet: size differs"
    here.run(stage)
    assert here.state(stage).kind == "fresh"


def test_nothing_is_current_before_its_upload_is_complete(
    here: Lake, there: Lake, items: Items, writes: Writes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = writes("ingest", {"items": items("tea")})

    write = MemoryFileSystem.pipe_file

    def cut(fs: MemoryFileSystem, path: str, *args: Any, **more: Any) -> None:
        if path.endswith("/current"):
            raise ConnectionError("the network went away")
        write(fs, path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", cut)
        with pytest.raises(ConnectionError):
            here.run(stage)
    assert there.manifest("items") is None
    assert here.state(stage).kind == "missing"
    assert here.run(stage).why == "made before with these settings and inputs"
    assert there.read("items").num_rows == 1


def test_what_another_machine_rebuilt_replaces_the_local_copy(here: Lake, there: Lake, items: Items) -> None:
    titles = ["tea"]

    def work(io: StageIO) -> None:
        io.write("items", items(*titles))  # not the same every time, as an LLM may be

    stage = Stage("ingest", 1, (), ("items",), {}, work)
    here.run(stage)
    assert there.read("items")["title"].to_pylist() == ["tea"]
    titles[0] = "pan"
    here.run(stage, rebuild=True)
    assert there.read("items")["title"].to_pylist() == ["pan"]


def test_only_the_newest_fingerprints_stay_in_the_store(url: str, tmp_path: Path, items: Items, writes: Writes) -> None:
    lake = Lake(url, "shop", keep=1, cache=tmp_path)
    lake.run(writes("ingest", {"items": items("tea")}, settings={"seed": 1}))
    stage = writes("ingest", {"items": items("tea")}, settings={"seed": 2})
    name = lake.run(stage).fingerprint
    assert objects(url) == [f"items/{name}/manifest.json", f"items/{name}/part-00000.parquet", "items/current"]


def test_a_rebuild_leaves_no_object_of_the_run_before(here: Lake, url: str) -> None:
    names = ["weights-1", "weights-2"]

    def work(io: StageIO) -> None:
        history(io.folder("pretrained"))
        for name in names:
            (io.folder("pretrained") / name).write_text(name)

    stage = Stage("pretrain", 1, (), ("pretrained",), {}, work)
    here.run(stage)
    names.pop()
    fingerprint = here.run(stage, rebuild=True).fingerprint
    files = ["history.parquet", "manifest.json", "weights-1"]
    assert objects(url) == [*(f"pretrained/{fingerprint}/{name}" for name in files), "pretrained/current"]


def test_the_evidence_of_a_failed_run_is_read_on_another_machine(here: Lake, there: Lake, url: str) -> None:
    bad = pa.table({"file": ["items.csv"], "line": [2], "kind": ["item"], "reason": ["no_item"], "row": [",food"]})
    errors: list[str] = ["1 row is bad"]

    def work(io: StageIO) -> None:
        if errors:
            raise DataRefused(errors.pop(), {"rejects": [bad]})
        io.write("rejects", bad)

    stage = Stage("ingest", 1, (), ("rejects",), {}, work)
    with pytest.raises(DataRefused):
        here.run(stage)
    found = there.failed_run("rejects")
    assert found is not None
    assert read_tables(found[0], REJECTS)["row"].to_pylist() == [",food"]
    here.run(stage)
    assert there.failed_run("rejects") is None
    assert not any("failed" in name for name in objects(url))


def test_replies_reach_the_store_even_from_a_run_that_fails(here: Lake, there: Lake) -> None:
    def work(io: StageIO) -> None:
        io.keyed_cache("replies").put(pa.table({"key": ["k"], "text": ["paid for"]}))
        raise RuntimeError("engine died")

    with pytest.raises(RuntimeError):
        here.run(Stage("generate_items", 1, (), ("generated_items",), {}, work))
    assert there.keyed_cache("replies").get(["k"])["text"].to_pylist() == ["paid for"]


def test_the_store_has_one_writer_at_a_time(here: Lake, there: Lake, url: str) -> None:
    with here.lock():
        with pytest.raises(UserError, match="Dataset 'shop' is being written by process"), there.lock():
            pass
        with here.lock():
            assert locks(url) == [FIRST_LOCK]
    with there.lock():
        assert locks(url) == [SECOND_LOCK]


@pytest.mark.parametrize("name", [FIRST_LOCK, ".lock"], ids=["ours", "of an earlier version"])
def test_a_lapsed_lock_is_taken_over_and_one_that_is_held_is_not(there: Lake, url: str, name: str) -> None:
    put_lock(url, name, host="gone", pid=1, until=time.time() + 60)
    with pytest.raises(UserError, match="is being written by process 1 on gone"), there.lock():
        pass
    put_lock(url, name, host="gone", pid=1, until=time.time() - 1)
    with there.lock():
        assert locks(url) == [SECOND_LOCK if name == FIRST_LOCK else FIRST_LOCK]


def test_of_writers_that_find_a_lapsed_lock_at_once_one_gets_it(url: str, tmp_path: Path) -> None:
    put_lock(url, FIRST_LOCK, host="gone", pid=1, until=0)
    assert one_of_many_gets_the_lock(url, tmp_path)


def test_the_lock_of_a_process_of_this_machine_that_died_is_taken_over_at_once(here: Lake, url: str) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    put_lock(url, FIRST_LOCK, host=socket.gethostname(), pid=dead.pid, until=time.time() + 600)
    with here.lock():
        assert locks(url) == [SECOND_LOCK]


def test_a_writer_that_slept_past_its_lock_publishes_and_removes_nothing(
    here: Lake, there: Lake, items: Items, writes: Writes, url: str
) -> None:
    fs = fsspec.filesystem("memory")
    first = there.run(writes("ingest", {"items": items("pan")})).fingerprint
    fs.pipe(f"{url}/shop/memory/replies/00000000-1.parquet", b"of the other")
    with here.lock():
        here.keyed_cache("replies")
        put_lock(url, THIRD_LOCK, host="another", pid=1, until=time.time() + 600)
        fs.pipe(f"{url}/shop/memory/replies/00000001-2.parquet", b"of the other")
        with pytest.raises(UserError, match="was taken over by another run while this one slept past its lock"):
            here.run(writes("ingest", {"items": items("tea")}), rebuild=True)
        with pytest.raises(UserError, match="was taken over"):
            here.store.remove("items", first)
    assert fs.cat(f"{url}/shop/items/current") == f"{first}\n".encode()
    assert json.loads(fs.cat(f"{url}/shop/{THIRD_LOCK}"))["host"] == "another"
    assert len([name for name in objects(url) if name.startswith("memory/replies/")]) == 2


@pytest.mark.parametrize("name", ["../../../victim", "/victim", "f" * 63, "F" * 64, ""])
def test_a_store_whose_current_is_no_fingerprint_touches_nothing_here(
    here: Lake, tmp_path: Path, url: str, name: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "manifest.json").write_text("{}")
    fsspec.filesystem("memory").pipe(f"{url}/shop/items/current", f"{name}\n".encode())
    with pytest.raises(UserError, match="no fingerprint: this lake did not write it"):
        here.manifest("items")
    assert (victim / "manifest.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../../../../victim", "/victim", "a/../../b", "a\\b", "a//b", "./a", "a\nb"])
def test_a_manifest_whose_file_leads_out_of_its_folder_is_no_manifest(
    here: Lake, there: Lake, items: Items, writes: Writes, url: str, name: str
) -> None:
    fingerprint = here.run(writes("ingest", {"items": items("tea")})).fingerprint
    path = f"{url}/shop/items/{fingerprint}/manifest.json"
    manifest = json.loads(fsspec.filesystem("memory").cat(path))
    files = manifest["outputs"]["items"]["files"]
    files[name] = files.pop("part-00000.parquet")
    fsspec.filesystem("memory").pipe(path, json.dumps(manifest).encode())
    with pytest.raises(UserError, match="has not been made"):
        there.path("items")


def test_a_part_of_a_cache_with_another_s_name_is_not_fetched(here: Lake, url: str) -> None:
    fsspec.filesystem("memory").pipe(f"{url}/shop/memory/replies/evil.sh", b"rm")
    here.keyed_cache("replies")
    assert not (here.home / "memory" / "replies" / "evil.sh").exists()


def test_the_name_of_no_artifact_is_refused_before_anything_is_touched(here: Lake, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for look in (here.manifest, here.failed_run, here.path, lambda name: here.verified_path(name, full=False)):
        with pytest.raises(UserError, match=r"There is no artifact '\.\./\.\./victim'"):
            look("../../victim")
    assert victim.is_dir()


def test_verify_reads_the_store_and_not_the_local_copy(here: Lake, items: Items, writes: Writes, url: str) -> None:
    fingerprint = here.run(writes("ingest", {"items": items("tea")})).fingerprint
    path = f"{url}/shop/items/{fingerprint}/part-00000.parquet"
    written = bytearray(fsspec.filesystem("memory").cat(path))
    assert here.find_alteration("items", full=True) == ""
    written[20] ^= 1
    fsspec.filesystem("memory").pipe(path, bytes(written))
    assert here.find_alteration("items", full=False) == ""
    assert here.find_alteration("items", full=True) == "part-00000.parquet: content differs"


def test_a_local_copy_that_was_cut_is_fetched_again(here: Lake, items: Items, writes: Writes) -> None:
    here.run(writes("ingest", {"items": items("tea")}))
    copy = here.path("items") / "part-00000.parquet"
    copy.write_bytes(copy.read_bytes()[:40])
    assert here.read("items")["title"].to_pylist() == ["tea"]


def test_a_local_copy_whose_bits_changed_is_fetched_again_after_verify(
    here: Lake, items: Items, writes: Writes
) -> None:
    here.run(writes("ingest", {"items": items("tea")}))
    copy = here.path("items") / "part-00000.parquet"
    written, status = copy.read_bytes(), copy.stat()
    copy.write_bytes(bytes([*written[:20], written[20] ^ 1, *written[21:]]))
    os.utime(copy, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert here.find_alteration("items", full=True) == ""
    assert (here.path("items") / "part-00000.parquet").read_bytes() == written


def test_a_store_that_may_let_two_writers_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root = ftp://x/y: of ftp it is not known that it creates an object once"):
        Lake("ftp://x/y", "shop", cache=tmp_path)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("abfs://x/y", "Install adlfs"),
        ("gs://x/y", r"Please install gcsfs.* \(the extra `gcs` brings it\)"),
        ("nonsense://x/y", "Protocol not known"),
    ],
)
def test_a_store_that_nothing_here_can_speak_to_is_named(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"\[lake\] root = {url}: .*{reason}"):
        Lake(url, "shop", cache=tmp_path)


def test_a_store_that_is_down_is_named(here: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(fs: MemoryFileSystem, path: str) -> bytes:
        raise ConnectionError("refused\nand more")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", down)
    with pytest.raises(UserError, match=r"current cannot be read \(ConnectionError: refused\). Is the store up\?"):
        here.manifest("items")


def test_rows_that_are_forgotten_here_are_in_no_object_and_not_read_there(
    here: Lake, there: Lake, items: Items, writes: Writes, url: str
) -> None:
    here.run(writes("ingest", {"items": items("tea", "pan")}, settings={"version": 1}))
    fingerprint = here.run(writes("ingest", {"items": items("tea", "pan", "wok")}, settings={"version": 2})).fingerprint
    assert there.read("items")["title"].to_pylist() == ["tea", "pan", "wok"]
    here.forget(lambda artifact, table, rows: rows.filter(pc.not_equal(rows["title"], "pan")))
    assert objects(url) == [
        f"items/{fingerprint}/manifest.json", f"items/{fingerprint}/part-00000.parquet", "items/current",
    ]  # fmt: skip
    assert there.read("items")["title"].to_pylist() == ["tea", "wok"]
    assert there.find_alteration("items", full=True) == ""


def test_what_was_made_from_rows_that_are_forgotten_is_stale(here: Lake, items: Items, writes: Writes) -> None:
    ingest = writes("ingest", {"items": items("tea", "pan")})
    second = writes("second", {"item_embeddings": empty(ITEM_EMBEDDINGS)}, reads=("items",))
    here.run(ingest)
    here.run(second)
    here.forget(lambda artifact, table, rows: rows.slice(0, 1) if artifact == "items" else rows)
    assert here.state(ingest).kind == "fresh"
    assert here.state(second).why == "input items changed"
