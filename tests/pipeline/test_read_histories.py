"""Files of histories: which columns, which times, what is left out."""

import polars as pl
import pytest

from data_lake.errors import UserError
from pipeline.config import DataConfig
from pipeline.ingest.read_histories import read_histories


def cfg(**settings) -> DataConfig:
    return DataConfig(interactions="a.csv", items="b.csv", **settings)


def test_columns_are_called_as_in_the_interactions_or_as_we_call_them(tmp_path):
    (tmp_path / "theirs.csv").write_text("customer,sku,when\nu,i,2024-01-02\n")
    (tmp_path / "ours.csv").write_text("item_id,user_id,when\ni,u,2024-01-02T00:00:01Z\n")
    ours = cfg(columns={"user_id": "customer", "item_id": "sku", "timestamp": "when"})
    first, second = (read_histories(tmp_path / name, ours) for name in ("theirs.csv", "ours.csv"))
    assert first[0].to_pylist() == [{"user_id": "u", "item_id": "i", "time": 1704153600000}]
    assert second[0].to_pylist() == [{"user_id": "u", "item_id": "i", "time": 1704153601000}]
    assert first[1] == second[1] == {}


def test_known_formats_know_their_columns(tmp_path):
    (tmp_path / "r.jsonl").write_text(
        '{"user_id": "u", "parent_asin": "B1", "timestamp": 1704153600000, "rating": 5}\n'
    )
    table, _ = read_histories(tmp_path / "r.jsonl", cfg(format="amazon-2023"))
    assert table.to_pylist() == [{"user_id": "u", "item_id": "B1", "time": 1704153600000}]


def test_times_may_be_missing_and_are_not_read_where_the_data_tells_an_order_only(tmp_path):
    pl.DataFrame({"user_id": [7], "item_id": ["i"]}).write_parquet(tmp_path / "h.parquet")
    assert read_histories(tmp_path / "h.parquet", cfg())[0].to_pylist() == [{"user_id": "7", "item_id": "i"}]
    (tmp_path / "h.csv").write_text("user_id,item_id,timestamp\nu,i,never\n")
    assert read_histories(tmp_path / "h.csv", cfg(times="order"))[0].to_pylist() == [{"user_id": "u", "item_id": "i"}]


def test_rows_stand_by_position_where_there_is_one(tmp_path):
    (tmp_path / "h.csv").write_text("user_id,item_id,position\nu,i10,10\nu,i9,9\nu,last,\nv,i9,9\n")
    assert read_histories(tmp_path / "h.csv", cfg())[0]["item_id"].to_pylist() == ["i9", "i9", "i10", "last"]


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    rows = ["u,i,10,5", " ,i,10,5", "u,,10,5", "u,i,soon,5", "u,i,10,3", "u,i,10,", "u,i"]
    (tmp_path / "h.csv").write_text("user_id,item_id,timestamp,rating\n" + "\n".join(rows) + "\n")
    table, left_out = read_histories(tmp_path / "h.csv", cfg(min_rating=4))
    assert table.num_rows == 1
    assert left_out == {
        "no_user": 1, "no_item": 1, "bad_time": 1, "rating_below_minimum": 2, "wrong_field_count": 1,
    }  # fmt: skip


def test_a_file_without_a_row_that_can_be_read_is_an_error(tmp_path):
    (tmp_path / "h.csv").write_text("user_id,item_id\n")
    with pytest.raises(UserError, match=r"no action can be read \(it has none\)"):
        read_histories(tmp_path / "h.csv", cfg())
