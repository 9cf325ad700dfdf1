import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_lake.schemas import ARTIFACTS, CHECKPOINT, ITEMS, describe
from data_lake.tables import check, read_tables, write_parts

COLUMNS = [
    pytest.param(column, id=f"{artifact.name}/{name}.{column.name}")
    for artifact in ARTIFACTS.values()
    for name, schema in artifact.tables.items()
    for column in schema
]
ROWS = {"item_id": ["a"], "domain": ["food"], "title": ["Tea"], "text": [None]}


def without_descriptions(table: pa.Table) -> pa.Table:
    """Return the table as an earlier version wrote it."""
    return table.cast(pa.schema([column.remove_metadata() for column in table.schema]))


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_is_described_in_a_sentence_that_says_when_it_is_null(column):
    assert describe(column).endswith(".")
    assert ("Null:" in describe(column)) == column.nullable


def test_every_table_says_what_a_row_of_it_is():
    for artifact in ARTIFACTS.values():
        assert artifact.rows.keys() == artifact.tables.keys()


def test_the_files_hold_the_descriptions_and_open_in_polars_and_duckdb(tmp_path):
    [path] = write_parts(check(pa.table(ROWS), ITEMS), tmp_path)
    assert describe(pq.read_schema(path).field("title")) == "Its title, without markup. Null: it has none."
    assert pl.read_parquet(path).to_dict(as_series=False) == ROWS
    assert duckdb.sql(f"select * from '{path}'").fetchall() == [("a", "food", "Tea", None)]


def test_parts_of_an_earlier_version_are_read_beside_those_that_are_described(tmp_path):
    table = check(pa.table(ROWS), ITEMS)
    write_parts(without_descriptions(table), tmp_path)
    other = check(pa.table(ROWS | {"item_id": ["b"]}), ITEMS)
    pq.write_table(other, tmp_path / "part-00001.parquet")
    assert read_tables(tmp_path, ITEMS)["item_id"].to_pylist() == ["a", "b"]


def test_a_further_loss_is_described_too():
    assert describe(CHECKPOINT.further_column("contrast_loss")).endswith(".")
    assert ITEMS.further_column("contrast_loss") is None
