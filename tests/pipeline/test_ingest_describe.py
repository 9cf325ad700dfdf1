"""What `edt init` can tell from the heads of two files."""

import gzip
import json
from datetime import datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_lake.errors import UserError
from pipeline.config import DataConfig
from pipeline.ingest.describe_inputs import describe, tell_kind
from tests.pipeline.whole_ingest import ingest_whole as ingest


def ingested(actions, items, found):
    """Read files as they were described."""
    cfg = DataConfig(
        interactions=actions, items=items, columns=found.columns, item_columns=found.item_columns,
        timestamp_unit=found.timestamp_unit,
    )  # fmt: skip
    return ingest(cfg)


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
    assert ingested(actions, items, found).interactions["domain"].to_pylist() == ["food", "kitchen"]


def test_the_rows_of_a_large_file_are_estimated(tmp_path):
    actions, items = tmp_path / "a.csv", tmp_path / "items.csv"
    actions.write_text("user,item,date\n" + "user1,item1,2020-01-01\n" * 200_000)
    items.write_text("item,domain\nitem1,food\n")
    found = describe(actions, items)
    assert found.timestamp_unit == "iso"
    assert found.interactions == pytest.approx(200_000, rel=0.01)


def test_what_cannot_be_found_is_missing_with_what_there_is(tmp_path):
    actions, items = tmp_path / "a.csv", tmp_path / "items.csv"
    actions.write_text("who,item_id,timestamp\nu,1,soon\n")
    items.write_text("item_id,title\n1,x\n")
    missing = describe(actions, items).missing
    assert list(missing) == ["user_id", "timestamp", "items.domain"]
    assert missing["user_id"] == f"no column of {actions} looks like user_id: who, item_id, timestamp."
    assert missing["timestamp"].startswith("column 'timestamp' holds 'soon', no times")
    assert missing["items.domain"].endswith("Files of one domain each are given as --domain NAME=FILE")
    actions.write_text("user,item_id,position\nu,1,0\n")
    assert describe(actions, items).missing["timestamp"].endswith('needs [data] times = "order"')
    items.write_text("item_id,domain\n1,food\n")
    actions.write_text("user,item_id,timestamp\nu,1,1500000000\n")
    assert describe(actions, items).missing == {}


def test_a_catalogue_without_a_column_of_titles_is_told(tmp_path):
    actions, items = tmp_path / "a.csv", tmp_path / "items.csv"
    actions.write_text("user,item_id,timestamp\nu,1,1500000000\n")
    items.write_text("item_id,domain,Bezeichnung\n1,food,Tea\n2,kitchen,Pan\n")
    found = describe(actions, items)
    assert found.missing == {}
    assert found.absent == {
        name: f"no column of {actions} looks like it" for name in ("domain", "position", "rating")
    } | {"items.title": f"no column of {items} looks like it"}
    assert found.warnings == (
        f"no column of {items} looks like title: item_id, domain, Bezeichnung. An item without a title or a text gets "
        "no vector, and nothing is asked or answered about it. Name the column with --column title=NAME.",
    )
    assert describe(actions, items, {"title": "Bezeichnung"}).warnings == ()


def test_a_given_column_is_taken_whatever_it_is_called(tmp_path):
    actions, items = tmp_path / "a.csv", tmp_path / "items.csv"
    actions.write_text("who,sku,date,user\nu,1,2020-01-01,x\n")
    items.write_text("id,shelf,label\n1,food,Tea\n")
    given = {
        "user_id": "who", "items.item_id": "id", "domain": "shelf", "title": "label", "item_id": "sku",
    }  # fmt: skip
    found = describe(actions, items, given)
    assert found.columns == {"user_id": "who", "item_id": "sku", "timestamp": "date"}
    assert found.item_columns == {"item_id": "id", "domain": "shelf", "title": "label"}
    assert (found.missing, found.reasons["user_id"]) == ({}, "given as --column user_id")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"user_id": "wo"}, "--column user_id=wo: there is no column 'wo'. Did you mean 'who'?"),
        ({"titel": "label"}, "--column titel=label: 'titel' is none of user_id, .* Did you mean 'title'?"),
        ({"items.user_id": "label"}, "'items.user_id' is none of"),
    ],
)
def test_a_given_column_that_is_none_is_refused_with_the_nearest(tmp_path, given, message):
    actions, items = tmp_path / "a.csv", tmp_path / "items.csv"
    actions.write_text("who,sku,date\nu,1,2020-01-01\n")
    items.write_text("id,shelf,label\n1,food,Tea\n")
    with pytest.raises(UserError, match=message.replace("?", "[?]")):
        describe(actions, items, given)


def test_files_by_domain_need_no_column_of_domains(tmp_path):
    for name in ("food", "kitchen"):
        (tmp_path / f"{name}.csv").write_text(f"user;item;date\nu;{name}1;2020-01-01\n")
        (tmp_path / f"{name}.tsv").write_text(f"item\tname\n{name}1\tTea\n")
    actions, items = ({each: tmp_path / f"{each}.{end}" for each in ("food", "kitchen")} for end in ("csv", "tsv"))
    found = describe(actions, items)
    assert (found.missing, found.domains, found.interactions) == ({}, ("food", "kitchen"), 2)
    assert ingested(actions, items, found).interactions["domain"].to_pylist() == ["food", "kitchen"]


def test_files_of_one_kind_must_name_their_columns_alike(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,date\nu,1,2020-01-01\n")
    (tmp_path / "b.csv").write_text("customer,item,date\nu,1,2020-01-01\n")
    (tmp_path / "items.csv").write_text("item,domain\n1,food\n")
    found = describe((tmp_path / "a.csv", tmp_path / "b.csv"), tmp_path / "items.csv")
    assert found.missing == {"user_id": "no column of the files of interactions looks like user_id: item, date."}


@pytest.mark.parametrize(
    ("actions", "items", "name"),
    [
        ({"reviewerID": "u", "asin": "1", "unixReviewTime": 1500000000, "overall": 5}, {"asin": "1"}, "amazon-2014"),
        ({"user_id": "u", "parent_asin": "1", "timestamp": 1500000000000, "rating": 5, "asin": "2"},
         {"parent_asin": "1", "main_category": "Grocery"}, "amazon-2023"),
        ({"user_id": "u", "item_id": "1", "timestamp": 1500000000}, {"item_id": "1"}, "columns"),
    ],
)  # fmt: skip
def test_amazons_formats_are_told_by_their_columns(tmp_path, actions, items, name):
    (tmp_path / "a.jsonl").write_text(json.dumps(actions) + "\n")
    (tmp_path / "m.jsonl").write_text(json.dumps(items | {"title": "Tea"}) + "\n")
    found = describe({"food": tmp_path / "a.jsonl"}, {"food": tmp_path / "m.jsonl"})
    assert (found.format, found.missing) == (name, {})
    cfg = DataConfig(
        interactions={"food": tmp_path / "a.jsonl"}, items={"food": tmp_path / "m.jsonl"}, format=found.format
    )
    assert ingest(cfg).items["title"].to_pylist() == ["Tea"]


def test_interactions_and_items_are_told_apart_by_a_column_of_users(tmp_path):
    (tmp_path / "a.csv").write_text("customer,sku,date\n")
    (tmp_path / "b.csv").write_text("who,sku,date\n")
    kinds = [tell_kind(tmp_path / name, given) for name in ("a.csv", "b.csv") for given in ({}, {"user_id": "who"})]
    assert kinds == ["interactions", "interactions", "items", "interactions"]


ITEMS = "item_id,domain\n1,food\n2,kitchen\n"


def settings_of(tmp_path, actions, items=ITEMS, name="a.csv"):
    """Describe two files and return settings for them; raise UserError with what is missing."""
    (tmp_path / name).write_text(actions)
    (tmp_path / "items.csv").write_text(items)
    found = describe(tmp_path / name, tmp_path / "items.csv")
    if found.missing:
        raise UserError("; ".join(found.missing.values()))
    return DataConfig(
        interactions=tmp_path / name, items=tmp_path / "items.csv", columns=found.columns,
        item_columns=found.item_columns, timestamp_unit=found.timestamp_unit,
    )  # fmt: skip


def test_the_time_is_taken_from_the_column_that_holds_one(tmp_path):
    cfg = settings_of(tmp_path, "user_id,item_id,date,hourmin,time_ms\nu,1,20220408,1400,1649397600000\n")
    assert (cfg.columns.timestamp, cfg.timestamp_unit) == ("time_ms", "ms")
    cfg = settings_of(tmp_path, "user_id,item_id,time,date\nu,1,14:00,20220408\n")
    assert (cfg.columns.timestamp, cfg.timestamp_unit) == ("date", "iso")
    assert str(ingest(cfg).interactions["timestamp"][0]) == "2022-04-08 00:00:00+00:00"


def test_a_column_that_ingest_could_not_read_is_not_taken_for_what_its_name_says(tmp_path):
    cfg = settings_of(tmp_path, "user_id,item_id,category,timestamp,score\nu,1,shoes,1500000000,good\n")
    assert (cfg.columns.rating, cfg.columns.domain) == ("rating", "domain")
    assert ingest(cfg).interactions.num_rows == 1


@pytest.mark.parametrize(
    ("actions", "items", "message"),
    [
        ("user_id,item_id,timestamp\nu,1,1\n", ITEMS, r"'1', read as 1970-01-01 \(s\); times from 1990 to"),
        ("user_id,item_id,timestamp\nu,1,1500000000\nu,2,\n", ITEMS, "'timestamp' is empty in 1 of the first 2 rows"),
        ("user_id,item_id,timestamp,rating\nu,1,1500000000,good\n", ITEMS, "'rating' holds 'good', no number"),
        ("user_id,item_id,timestamp,domain\nu,1,1500000000,shoes\n", ITEMS, "'shoes', which is not a domain of"),
        (
            "user_id,item_id,timestamp\nu,x,1500000000\n",
            ITEMS,
            "'x', which is not an item of the items file, such as '1'",
        ),
        ("user_id,item_id,timestamp\n", ITEMS, "a.csv: no row, only the names of columns"),
        ("user_id,item_id,timestamp\nu,1,1500000000\n", "item_id,domain\n", "items.csv: no row, only the names"),
        ("user_id,item_id,timestamp\nu,1,1500000000\n", "item_id,domain\n1,\n", "column 'domain' is empty"),
        ("user_id,item_id,timestamp\nu,1,1500000000\n", "item_id,domain\n1,all\n", "cannot be called 'all'"),
        ("u,1193,5,978300760\nu,2,5,978300761\n", ITEMS, "Is its first line a row"),
    ],
)
def test_what_ingest_would_refuse_is_refused_before_settings_are_written(tmp_path, actions, items, message):
    with pytest.raises(UserError, match=message):
        settings_of(tmp_path, actions, items)


TIMES = [
    *("1500000000", "1500000000.5", "1500000000000", "20210228", "20210228134352", "2021-02-28", "20210228T134352Z"),
    *("2021-02-28T13:43:52+00", "28.02.2021", "1", "2021", "44255.5", "99999999999", "soon", "nan", "-1", ""),
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(TIMES), st.sampled_from(TIMES), st.sampled_from(["5", "NaN", "", "good"]),
                  st.sampled_from(["food", "", "shoes"])),
        min_size=1, max_size=4,
    ),
    st.permutations(["timestamp", "date", "rating", "domain"]),
)  # fmt: skip
def test_what_is_described_ingest_takes(tmp_path_factory, rows, names):
    header = ",".join(["user_id", "item_id", *names])
    lines = [f"u{number},1,{','.join(row)}\n" for number, row in enumerate(rows)]
    try:
        cfg = settings_of(tmp_path_factory.mktemp("init"), f"{header}\n{''.join(lines)}")
    except UserError:
        return
    assert ingest(cfg).interactions.num_rows == len(rows)


def test_folders_of_parquet_files_are_described(tmp_path):
    for number in range(2):
        folder = tmp_path / "items" / f"domain=d{number}"
        folder.mkdir(parents=True)
        pl.DataFrame({"item_id": [number]}).write_parquet(folder / "part.parquet")
    (tmp_path / "actions").mkdir()
    actions = pl.DataFrame({"user_id": ["u"], "item_id": [0.0], "timestamp": [1500000000]})
    actions.write_parquet(tmp_path / "actions" / "part.parquet")
    found = describe(tmp_path / "actions", tmp_path / "items")
    assert (found.domains, found.interactions, found.items) == (("d0", "d1"), 1, 2)
    (tmp_path / "actions" / "part.parquet").unlink()
    with pytest.raises(UserError, match="a folder without Parquet files"):
        describe(tmp_path / "actions", tmp_path / "items")


@pytest.mark.parametrize("kind", [pl.Datetime("us"), pl.Datetime("ns", "UTC"), pl.Date])
def test_times_of_a_parquet_file_are_typed_already(tmp_path, kind):
    actions, items = tmp_path / "a.parquet", tmp_path / "items.parquet"
    times = pl.Series([datetime(2020, 1, 1), datetime(2020, 1, 2)])
    zone = getattr(kind, "time_zone", None)
    typed = times.dt.replace_time_zone(zone).cast(kind) if zone else times.cast(kind)
    pl.DataFrame({"user": ["u", "v"], "item": ["1", "2"], "time": typed}).write_parquet(actions)
    pl.DataFrame({"item": ["1", "2"], "domain": ["food", "kitchen"]}).write_parquet(items)
    found = describe(actions, items)
    assert (found.timestamp_unit, found.reasons["timestamp_unit"]) == ("auto", "the column is typed as a time")


def test_one_domain_alone_is_told(tmp_path):
    (tmp_path / "a.csv").write_text("user_id,item_id,timestamp\nu,1,1500000000\n")
    (tmp_path / "items.csv").write_text("item_id,domain,title\n1,food,Tea\n2,food,Pan\n")
    found = describe(tmp_path / "a.csv", tmp_path / "items.csv")
    [warning] = found.warnings
    assert "items.csv: all items are of one domain, 'food': enrichment has nothing to do" in warning
