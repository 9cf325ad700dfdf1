"""What `edt init` can tell from the heads of two files."""

import gzip

import pytest

from data_lake.errors import UserError
from pipeline.config import DataConfig
from pipeline.ingest.describe_inputs import describe
from pipeline.ingest.ingest import ingest


def test_common_names_are_found_and_the_result_can_be_ingested(tmp_path):
    actions, items = tmp_path / "a.csv.gz", tmp_path / "items.jsonl"
    actions.write_bytes(gzip.compress(b"reviewerID,asin,unixReviewTime,overall\nu,1,1500000000,5\nu,2,1500000001,4\n"))
    items.write_text(
        '{"product_id": "1", "category": "food", "name": "Tea"}\n{"product_id": "2", "category": "kitchen"}\n'
    )
    found = describe(actions, items)
    assert found.columns == {
        "user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"
    }  # fmt: skip
    assert found.item_columns == {"item_id": "product_id", "domain": "category", "title": "name"}
    assert (found.timestamp_unit, found.domains) == ("s", ("food", "kitchen"))
    assert (found.interactions, found.items) == (2, 2)
    assert found.reasons["timestamp_unit"] == "numbers such as 1500000000"
    cfg = DataConfig(
        interactions=actions, items=items, columns=found.columns, item_columns=found.item_columns,
        timestamp_unit=found.timestamp_unit,
    )  # fmt: skip
    assert ingest(cfg).interactions["domain"].to_pylist() == ["food", "kitchen"]


def test_the_rows_of_a_large_file_are_estimated(tmp_path):
    actions, items = tmp_path / "a.csv", tmp_path / "items.csv"
    actions.write_text("user,item,date\n" + "user1,item1,2020-01-01\n" * 200_000)
    items.write_text("item,domain\nitem1,food\n")
    found = describe(actions, items)
    assert found.timestamp_unit == "iso"
    assert found.interactions == pytest.approx(200_000, rel=0.01)


def test_what_cannot_be_found_is_named_with_what_there_is(tmp_path):
    actions, items = tmp_path / "a.csv", tmp_path / "items.csv"
    actions.write_text("who,item_id,timestamp\nu,1,soon\n")
    items.write_text("item_id,title\n1,x\n")
    with pytest.raises(UserError, match=r"no column looks like user_id\. It has who, item_id, timestamp"):
        describe(actions, items)
    actions.write_text("user,item_id,timestamp\nu,1,soon\n")
    with pytest.raises(UserError, match=r'no column looks like domain.*\{food = FILE, kitchen = FILE\}.*"amazon-2014"'):
        describe(actions, items)
    items.write_text("item_id,domain\n1,x\n")
    actions.write_text("user,item_id,position\nu,1,0\n")
    with pytest.raises(UserError, match=r'no column looks like timestamp.*by hand: \[data\] times = "order"'):
        describe(actions, items)
    actions.write_text("user,item_id,timestamp\nu,1,soon\n")
    with pytest.raises(UserError, match="column 'timestamp' holds 'soon', no times"):
        describe(actions, items)
