import hashlib
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_lake.schemas import CHECKPOINT, INTERACTIONS, ITEM_EMBEDDINGS, ITEMS, METRICS, SEQUENCES, TRAINING_SET
from data_lake.tables import SchemaError, check, empty, read_tables, write_parts

GOOD: dict[str, Any] = {
    "item_id": ["a", "b", "c"],
    "domain": ["food", "food", "kitchen"],
    "vector": [[1.0, 0.0], None, [0.0, 1.0]],
    "model": ["mini"] * 3,
    "revision": ["r1"] * 3,
}


def embeddings(**changed: Any) -> pa.Table:
    return pa.table({**GOOD, **changed})


def test_a_vector_column_becomes_a_fixed_size_list_of_float32() -> None:
    checked = check(embeddings(), ITEM_EMBEDDINGS)
    assert checked.schema.field("vector").type == pa.list_(pa.float32(), 2)
    assert checked["vector"].to_pylist() == [[1.0, 0.0], None, [0.0, 1.0]]


def test_polars_types_are_cast_to_the_schema() -> None:
    frame = pl.DataFrame(
        {"user_id": ["u"], "item_ids": [["a", "b"]], "domains": [["food", "food"]], "splits": [["train", "test"]]}
    ).with_columns(timestamps=pl.Series([[datetime(2020, 1, 1, tzinfo=UTC)] * 2]))
    checked = check(frame.select(SEQUENCES.tables[""].names).to_arrow(), SEQUENCES)
    assert checked.schema == SEQUENCES.tables[""]
    assert checked["item_ids"].to_pylist() == [["a", "b"]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": ["mini", None, None]}, "item_embeddings: column 'model' has 2 nulls (first at item_id=b, row 1); "
         "ITEM_EMBEDDINGS forbids them."),
        ({"item_id": [1, 2, 3]}, "item_embeddings: column 'item_id' is int64; ITEM_EMBEDDINGS needs string."),
        ({"item_id": ["a", "b", "a"]}, "item_embeddings: item_id=a is in rows 0 and 2; ITEM_EMBEDDINGS needs each "
         "item_id once."),
        ({"vector": [None, [1.0], [1.0, 2.0]]}, "item_embeddings: column 'vector' holds a vector of length 2 at "
         "item_id=c, row 2, others have 1."),
        ({"vector": [[1.0], [None], [1.0]]}, "item_embeddings: column 'vector' holds a null inside its list (first at "
         "item_id=b, row 1); ITEM_EMBEDDINGS forbids it."),
        ({"extra": [1, 2, 3]}, "item_embeddings: column 'extra' is unknown; ITEM_EMBEDDINGS has item_id, domain, "
         "vector, model, revision."),
    ],
)  # fmt: skip
def test_a_broken_table_is_refused_by_artifact_column_and_row(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError) as error:
        check(embeddings(**changed), ITEM_EMBEDDINGS)
    assert str(error.value) == message


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SchemaError, match="item_embeddings: column 'domain' is missing; ITEM_EMBEDDINGS needs it"):
        check(embeddings().drop_columns(["domain"]), ITEM_EMBEDDINGS)


def test_a_number_too_large_is_refused_with_its_row() -> None:
    good = empty(INTERACTIONS).to_pydict()
    rows = {
        **good,
        "user_id": ["u", "u"],
        "item_id": ["a", "b"],
        "domain": ["food", "food"],
        "timestamp": pa.array([0, 0], pa.timestamp("us", "UTC")),
        "position": [7, 2**40],
        "rating": pa.nulls(2),
    }
    with pytest.raises(SchemaError, match=r"column 'position' cannot hold 1099511627776 \(at .* row 1\) as int32"):
        check(pa.table(rows), INTERACTIONS)
    with pytest.raises(SchemaError, match="column 'timestamp' is timestamp"):
        check(pa.table({**rows, "timestamp": pa.array([0, 0], pa.timestamp("us"))}), INTERACTIONS)


def test_a_null_in_a_key_counts_as_a_value() -> None:
    row = {
        "phase": "finetune", "split": "test", "protocol": "full", "domain": None, "group": "all", "metric": "HR@10",
        "value": 0.5, "low": 0.4, "high": 0.6, "users": 9, "candidates": 100.0,
    }  # fmt: skip
    check(pa.Table.from_pylist([row, {**row, "domain": "food"}]), METRICS)
    with pytest.raises(SchemaError, match="domain=None, group=all, metric=HR@10 is in rows 0 and 1"):
        check(pa.Table.from_pylist([row, row], schema=METRICS.tables[""]), METRICS)


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SchemaError, match="training_set has no table 'user'; it has sequences, users, items"):
        check(embeddings(), TRAINING_SET, "user")


def test_parts_keep_the_order_of_rows_and_columns_can_be_chosen(tmp_path: Path) -> None:
    ids = [f"i{number}" for number in range(25)]
    table = pa.table({"item_id": ids, "domain": ["d"] * 25, "title": ids, "text": ids})
    paths = write_parts(check(table, ITEMS), tmp_path, rows_per_part=2)
    assert [path.name for path in paths][::6] == ["part-00000.parquet", "part-00006.parquet", "part-00012.parquet"]
    assert read_tables(tmp_path, ITEMS)["item_id"].to_pylist() == ids
    assert read_tables(tmp_path, ITEMS, columns=["title", "item_id"]).column_names == ["title", "item_id"]


def test_the_same_rows_give_the_same_bytes_however_they_are_chunked(tmp_path: Path) -> None:
    single = check(embeddings(), ITEM_EMBEDDINGS)
    chunked = pa.concat_tables([single.slice(0, 1), single.slice(1, 2)])
    hashes = [
        hashlib.sha256(write_parts(table, tmp_path / name)[0].read_bytes()).hexdigest()
        for name, table in (("single", single), ("chunked", chunked))
    ]
    assert hashes[0] == hashes[1]


def test_a_table_without_rows_or_vectors_can_be_written_and_read(tmp_path: Path) -> None:
    write_parts(empty(ITEM_EMBEDDINGS), tmp_path / "none")
    assert read_tables(tmp_path / "none", ITEM_EMBEDDINGS).num_rows == 0
    write_parts(check(embeddings(vector=[None] * 3), ITEM_EMBEDDINGS), tmp_path / "null")
    assert read_tables(tmp_path / "null", ITEM_EMBEDDINGS)["vector"].to_pylist() == [None] * 3


def test_a_file_written_by_others_is_checked_on_reading(tmp_path: Path) -> None:
    pq.write_table(embeddings(model=[None, "m", "m"]), tmp_path / "part-00000.parquet")
    with pytest.raises(SchemaError, match=r"column 'model' has 1 nulls \(first at item_id=a, row 0\)"):
        read_tables(tmp_path, ITEM_EMBEDDINGS)
    (tmp_path / "part-00001.parquet").write_bytes(b"torn")
    with pytest.raises(SchemaError, match=r"part-00001\.parquet cannot be read as Parquet"):
        read_tables(tmp_path, ITEM_EMBEDDINGS)
    with pytest.raises(SchemaError, match="no Parquet file"):
        read_tables(tmp_path / "nowhere", ITEM_EMBEDDINGS)


ON_ITS_OWN = """
import os
import numpy as np
import pyarrow as pa
from data_lake.schemas import RECOMMENDATIONS
from data_lake.tables import check

texts = dict.fromkeys(("user_id", "domain", "item_id", "title"), ["a"] * 1200)
table = pa.table({**texts, "rank": np.arange(1200, dtype=np.int32), "score": np.zeros(1200, np.float32)})
before = len(os.listdir("/proc/self/task"))
check(table, RECOMMENDATIONS)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_holds_a_checked_table_when_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-c", ON_ITS_OWN], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_history_may_have_more_losses_and_no_other_column():
    row = {
        "epoch": 1, "loss": 1.0, "next_item_loss": 1.0, "align_loss": 0.0, "learning_rate": 0.1, "protocol": "full",
        "metric": "MRR", "value": 0.5, "best": True,
    }  # fmt: skip
    more = check(pa.Table.from_pylist([row | {"length_loss": 2.0}]), CHECKPOINT)
    assert more.schema.field("length_loss") == pa.field("length_loss", pa.float32(), nullable=False)
    with pytest.raises(SchemaError, match="column 'length' is unknown"):
        check(pa.Table.from_pylist([row | {"length": 2.0}]), CHECKPOINT)


def test_text_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    ids = pa.array([b"a", b"\xff"], pa.binary())
    text = pa.StringArray.from_buffers(2, *ids.buffers()[1:])
    items = pa.table({"item_id": text, "domain": ["d"] * 2, "title": ["t"] * 2, "text": ["t"] * 2})
    pq.write_table(items, tmp_path / "part-00000.parquet")
    with pytest.raises(SchemaError, match=r"part-00000\.parquet cannot be read as Parquet .*UTF8"):
        read_tables(tmp_path, ITEMS)
