"""Raw rows become interactions, items or rejects: exact answers, and counts that add up."""

import json
import os
import re
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_lake.errors import DataRefused, UserError
from pipeline.config import DataConfig, SplitConfig
from pipeline.deal import deal
from pipeline.ingest import readers
from pipeline.ingest import refused as refused_rows
from pipeline.ingest.formats import FORMATS, Format
from pipeline.ingest.refused import FILE, Refused
from pipeline.ingest.times import read_times
from tests.pipeline.whole_ingest import ingest_whole as ingest

ITEMS = "item_id,domain,title\nf1,food,Green tea\nf2,food,Rye bread\nk1,kitchen,Pan\nk2,kitchen,Wok\n"


@pytest.fixture
def take(tmp_path):
    """Write the two files and ingest them; settings by keyword."""

    def run(interactions, items=ITEMS, **data):
        (tmp_path / "actions.csv").write_text(interactions)
        (tmp_path / "items.csv").write_text(items)
        data = {"max_bad": 1.0} | data
        return ingest(DataConfig(interactions=tmp_path / "actions.csv", items=tmp_path / "items.csv", **data))

    return run


def refusals(result):
    rows = result.rejects.to_pylist()
    return [(row["file"], row["line"], row["reason"]) for row in rows]


def history(result, user):
    return [row["item_id"] for row in result.interactions.to_pylist() if row["user_id"] == user]


def test_every_refused_row_has_its_line_and_reason(take):
    result = take(
        "user_id,item_id,domain,timestamp,rating\n"
        "u,f1,food,1500000000,5\n"
        "u,f1,food,1500000000,5\n"
        ",f1,food,1500000000,5\n"
        "u,,food,1500000000,5\n"
        "u,f2,food,soon,5\n"
        "u,f2,food,-5,5\n"
        "u,f2,food,99999999999,5\n"
        "u,f2,food,1500000001,good\n"
        "u,zz,food,1500000002,5\n"
        "u,k1,food,1500000003,5\n"
        "u,k1,kitchen,1500000004\n"
        " u ,k1,kitchen,1500000005,\n"
    )
    assert refusals(result) == [
        ("actions.csv", 3, "duplicate"),
        ("actions.csv", 4, "no_user"),
        ("actions.csv", 5, "no_item"),
        ("actions.csv", 6, "bad_time"),
        ("actions.csv", 7, "impossible_time"),
        ("actions.csv", 8, "impossible_time"),
        ("actions.csv", 9, "bad_rating"),
        ("actions.csv", 10, "unknown_item"),
        ("actions.csv", 11, "domain_mismatch"),
        ("actions.csv", 12, "wrong_field_count"),
    ]
    assert json.loads(result.rejects["row"][2].as_py())["timestamp"] == "1500000000"
    assert result.interactions.to_pylist() == [
        {"user_id": "u", "item_id": "f1", "domain": "food", "timestamp": datetime(2017, 7, 14, 2, 40, tzinfo=UTC),
         "position": 0, "rating": 5.0},
        {"user_id": "u", "item_id": "k1", "domain": "kitchen", "timestamp": datetime(2017, 7, 14, 2, 40, 5, tzinfo=UTC),
         "position": 1, "rating": None},
    ]  # fmt: skip
    assert result.figures["interaction_rows"] == 12
    assert result.figures["bad"]["impossible_time"] == 2


def test_titles_lose_entities_tags_and_white_space(take):
    items = (
        "item_id,domain,title,brand\na,food,Salt &amp; vinegar &#39;x&#39;,B&amp;amp;W\n"
        'b,food,"  two\n  lines <br/> end",\nc,kitchen, ,\n'
    )
    result = take(
        "user_id,item_id,timestamp\nu,a,1500000000\n",
        items + "d,kitchen,5 < 6 > 4,x\n",
        columns={"text": ["brand"]},
    )
    assert result.items.to_pylist() == [
        {"item_id": "a", "domain": "food", "title": "Salt & vinegar 'x'", "text": "Salt & vinegar 'x' B&W"},
        {"item_id": "b", "domain": "food", "title": "two lines end", "text": "two lines end"},
        {"item_id": "c", "domain": "kitchen", "title": None, "text": None},
        {"item_id": "d", "domain": "kitchen", "title": "5 < 6 > 4", "text": "5 < 6 > 4 x"},
    ]
    assert result.interactions["domain"].to_pylist() == ["food"]


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("var aPageStart = (new Date()).getTime(); var ue_t0=ue_t0||+new Date();", None),
        ("Tea <script>var a = '<b>';</script>cup", "Tea cup"),
        ("<SCRIPT type='x'>if (a < b) {}</SCRIPT >", None),
        ("Tea <script src='cut", "Tea"),
        ("<style>b {c: d}</style>Tea<!-- a > b -->", "Tea"),
        ("<!DOCTYPE html><html><head><meta charset='utf-8'><title>Tea</title>", "Tea"),
        ("&lt;!-- cut &lt;b&gt;", None),
        ("<img src='a.png' alt=''> <div class='x'></div>", None),
        ("Cup <3 tea, 5 < 6 > 4, variable", "Cup <3 tea, 5 < 6 > 4, variable"),
        ("A scripted <LED> var", "A scripted <LED> var"),
    ],
)
def test_scripts_tags_and_comments_are_no_part_of_a_title(take, title, expected):
    listing = f'item_id,domain,title\nf1,food,"{title}"\nk1,kitchen,Pan\n'
    assert take("user_id,item_id,timestamp\nu,f1,1500000000\n", listing).items["title"][0].as_py() == expected


def test_an_item_in_two_domains_keeps_the_first_and_its_actions_follow(take):
    result = take(
        "user_id,item_id,domain,timestamp\nu,f1,food,1500000000\nu,f1,kitchen,1500000001\nu,f1,toys,1500000002\n",
        ITEMS + "f1,kitchen,Tea\nf1,food,Tea\n,food,x\nz,,x\n",
    )
    assert refusals(result) == [
        ("actions.csv", 4, "domain_mismatch"),
        ("items.csv", 6, "item_in_two_domains"),
        ("items.csv", 7, "duplicate_item"),
        ("items.csv", 8, "no_item"),
        ("items.csv", 9, "no_domain"),
    ]
    assert result.interactions["domain"].to_pylist() == ["food", "food"]
    assert result.items["item_id"].to_pylist() == ["f1", "f2", "k1", "k2"]


def test_unknown_items_are_added_without_title_when_kept(take):
    result = take(
        "user_id,item_id,domain,timestamp\nu,new,food,1500000000\nu,new,kitchen,1500000001\nu,f1,,1500000002\n",
        unknown_items="keep",
    )
    assert result.items.to_pylist()[-1] == {"item_id": "new", "domain": "food", "title": None, "text": None}
    assert refusals(result) == [("actions.csv", 3, "domain_mismatch")]
    assert result.figures["items_added"] == 1
    assert history(result, "u") == ["new", "f1"]


TIED = "user_id,item_id,timestamp,position\n" + "".join(
    f"u{user},{item},1500000000,{place}\n"
    for user in range(8)
    for item, place in [("k1", 2), ("f2", 0), ("k2", 3), ("f1", 1)]
)


def test_ties_follow_position_or_the_file_or_a_seed(take):
    assert history(take(TIED), "u0") == ["f2", "f1", "k1", "k2"]
    assert history(take(TIED, ties="file"), "u0") == ["k1", "f2", "k2", "f1"]
    orders = [
        [tuple(history(take(TIED, ties="shuffle", seed=seed), f"u{user}")) for user in range(8)] for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) > 1
    with pytest.raises(UserError, match="ties = 'position'"):
        take("user_id,item_id,timestamp\nu,f1,1500000000\n", ties="position")


def test_where_times_are_an_order_the_position_or_the_file_gives_it_and_no_timestamp_is_read(take):
    text = "user_id,item_id,position,timestamp\nu,f1,2,soon\nu,k1,1,9\nu,f1,7,1\nu,f1,7,1\nu,f2,late,1\nv,f2,5,\n"
    result = take(text, times="order", columns={"timestamp": "timestamp"})
    assert refusals(result) == [("actions.csv", 5, "duplicate"), ("actions.csv", 6, "bad_position")]
    assert result.interactions.select(["user_id", "item_id", "position"]).to_pylist() == [
        {"user_id": "u", "item_id": "k1", "position": 0},
        {"user_id": "u", "item_id": "f1", "position": 1},
        {"user_id": "u", "item_id": "f1", "position": 2},
        {"user_id": "v", "item_id": "f2", "position": 0},
    ]
    assert result.interactions["timestamp"].unique().to_pylist() == [datetime(2000, 1, 1, tzinfo=UTC)]
    assert result.figures["actions_without_a_time"] == 4
    assert result.figures["actions_at_the_time_of_the_one_before"] == 0
    assert history(take("user_id,item_id\nu,k2\nu,f1\nu,k2\n", times="order"), "u") == ["k2", "f1", "k2"]
    assert history(take(text, times="order", ties="file"), "u") == ["f1", "k1", "f1", "f1", "f2"]
    with pytest.raises(ValidationError, match="leaves nothing of the order"):
        take(text, times="order", ties="shuffle")


@pytest.fixture
def take_queries(tmp_path):
    """Ingest one training user, `known`, and two files of queries; settings by keyword."""

    def run(validation, test, **data):
        texts = {
            "actions": "user_id,item_id,position\nknown,f1,0\nknown,k1,1\n", "items": ITEMS,
            "v": "user_id,item_id,position\n" + validation, "t": "user_id,item_id,position\n" + test,
        }  # fmt: skip
        files = {name: tmp_path / f"{name}.csv" for name in texts}
        for name, text in texts.items():
            files[name].write_text(text)
        data = {"max_bad": 1.0, "times": "order"} | data
        split = SplitConfig(by="queries", validation_queries=files["v"], test_queries=files["t"])
        return ingest(DataConfig(interactions=files["actions"], items=files["items"], **data), split)

    return run


def test_queries_stand_apart_from_the_interactions_in_the_order_of_their_rows(take_queries):
    result = take_queries("a,k1,5\na,f1,3\nb,f2,0\nb,f2,1\n", "c,k2,0\nc,f1,1\n", min_user=2, min_item=1)
    assert set(result.interactions["user_id"].to_pylist()) == {"known"}
    assert [tuple(row[name] for name in ("user_id", "item_id", "domain", "position", "split"))
            for row in result.queries.to_pylist()] == [
        ("a", "f1", "food", 0, "validation"), ("a", "k1", "kitchen", 1, "validation"),
        ("b", "f2", "food", 0, "validation"), ("b", "f2", "food", 1, "validation"),
        ("c", "k2", "kitchen", 0, "test"), ("c", "f1", "food", 1, "test"),
    ]  # fmt: skip
    assert result.rejects.num_rows == 0
    assert (result.figures["query_rows"], result.figures["queries"]) == (6, {"test": 1, "validation": 2})
    assert result.figures["interactions"] == 2


def test_a_query_is_refused_whole_where_its_target_or_its_user_is_wrong(take_queries):
    result = take_queries(
        "known,f1,0\nknown,f2,1\n"  # is trained on
        "both,f1,0\nboth,f2,1\n"
        "lost,f1,0\nlost,f2,1\nlost,zz,2\n"  # the target is no item
        "short,f1,0\n"
        "fine,zz,0\nfine,f1,1\nfine,k1,2\n",
        "both,f1,0\nboth,f2,1\nlast,f1,0\nlast,f2,x\nok,f1,0\nok,k1,1\n",
    )
    assert refusals(result) == [
        ("v.csv", 2, "user_in_interactions"),
        ("v.csv", 3, "user_in_interactions"),
        ("v.csv", 4, "user_in_both_queries"),
        ("v.csv", 5, "user_in_both_queries"),
        ("v.csv", 6, "target_refused"),
        ("v.csv", 7, "target_refused"),
        ("v.csv", 8, "unknown_item"),
        ("v.csv", 9, "no_history"),
        ("v.csv", 10, "unknown_item"),
        ("t.csv", 2, "user_in_both_queries"),
        ("t.csv", 3, "user_in_both_queries"),
        ("t.csv", 4, "target_refused"),
        ("t.csv", 5, "bad_position"),
    ]
    assert set(result.rejects["kind"].to_pylist()) == {"query"}
    assert [(row["user_id"], row["item_id"]) for row in result.queries.to_pylist()] == [
        ("fine", "f1"), ("fine", "k1"), ("ok", "f1"), ("ok", "k1"),
    ]  # fmt: skip


def test_bad_queries_stop_an_ingest_as_bad_actions_do(take_queries):
    fine = "a,f1,0\na,f2,1\n"
    with pytest.raises(DataRefused, match=r"2 of 4 query rows are bad .*user_in_interactions 2\. The first is v.csv"):
        take_queries("known,f1,0\nknown,f2,1\n", fine, max_bad=0.4)
    with pytest.raises(DataRefused, match=r"No validation query is left \(user_in_interactions 2\)"):
        take_queries("known,f1,0\nknown,f2,1\n", fine)
    with pytest.raises(DataRefused, match=r"No test query is left \(the files are empty\)"):
        take_queries(fine, "")


def test_time_goes_before_position(take):
    result = take("user_id,item_id,timestamp,position\nu,f1,1500000009,0\nu,f2,1500000000,1\n")
    assert history(result, "u") == ["f2", "f1"]


def test_low_ratings_and_rare_users_and_items_go_until_nothing_is_rare(take):
    result = take(
        "user_id,item_id,timestamp,rating\n"
        "a,f1,1500000000,5\na,k1,1500000001,5\nb,f1,1500000000,4\nb,k1,1500000001,4\n"
        "c,f1,1500000000,5\nc,f2,1500000001,5\n"  # f2 has one action; without it c has one
        "d,f2,1500000000,1\nd,k1,1500000001,5\n",
        min_rating=2,
        min_user=2,
        min_item=2,
        max_bad=0.0,
    )
    assert refusals(result) == [
        ("actions.csv", 6, "user_below_minimum"),
        ("actions.csv", 7, "item_below_minimum"),
        ("actions.csv", 8, "rating_below_minimum"),
        ("actions.csv", 9, "user_below_minimum"),
    ]
    assert set(result.interactions["user_id"].to_pylist()) == {"a", "b"}
    assert result.figures["filtered"] == {"item_below_minimum": 1, "rating_below_minimum": 1, "user_below_minimum": 2}
    assert result.items.num_rows == 4


def test_too_many_bad_rows_stop_with_the_commonest_reasons(take):
    text = "user_id,item_id,timestamp\nu,f1,1500000000\nu,zz,1500000001\nu,zy,1500000002\n,f1,1500000003\n"
    with pytest.raises(
        UserError, match=r"3 of 4 interaction rows are bad .*unknown_item 2, no_user 1.*actions.csv line 3"
    ):
        take(text, max_bad=0.5)
    assert take(text, max_bad=0.75).interactions.num_rows == 1


@pytest.mark.parametrize(
    ("max_bad", "message"), [(0.5, "3 of 4 interaction rows are bad"), (1.0, "No action is left of 4")]
)
def test_an_ingest_that_stops_hands_over_the_rows_that_it_refused(take, max_bad, message):
    text = "user_id,item_id,timestamp\nu,zz,1500000000\nu,zx,1500000001\n,f1,1500000003\nu,f1,1500000002\n"
    with pytest.raises(DataRefused, match=message) as stopped:
        take(text, max_bad=max_bad, min_user=2)
    assert [(row["line"], row["reason"], json.loads(row["row"])["item_id"])
            for row in stopped.value.evidence["rejects"].to_pylist()][:3] == [
        (2, "unknown_item", "zz"), (3, "unknown_item", "zx"), (4, "no_user", "f1"),
    ]  # fmt: skip


def test_where_items_and_actions_are_bad_the_items_are_named_for_they_spoil_the_actions(take):
    with pytest.raises(UserError, match=r"^2 of 2 item rows are bad .*: no_domain 2\."):
        take("user_id,item_id,timestamp\nu,f1,1500000000\n", "item_id,domain,title\nf1,,Tea\nf2,,Bread\n", max_bad=0.5)


@pytest.fixture
def take_parquet(tmp_path):
    """Ingest actions given as columns of any type."""

    def run(**columns):
        pl.DataFrame(columns).write_parquet(tmp_path / "actions.parquet")
        (tmp_path / "items.csv").write_text(ITEMS)
        return ingest(DataConfig(interactions=tmp_path / "actions.parquet", items=tmp_path / "items.csv", max_bad=1.0))

    return run


def test_typed_columns_of_a_parquet_file_are_read_as_what_they_mean(take_parquet):
    when = datetime(2020, 1, 1)
    result = take_parquet(
        user_id=pl.Series([7, 7, None, 8], dtype=pl.UInt8),
        item_id=pl.Series([b"f1", b"f1", b"f1", None], dtype=pl.Binary),
        domain=pl.Series(["food"] * 4, dtype=pl.Categorical),
        timestamp=[when] * 4,
    )
    assert [reason for _, _, reason in refusals(result)] == ["duplicate", "no_user", "no_item"]
    assert result.interactions.select(["user_id", "item_id", "domain", "timestamp"]).to_pylist() == [
        {"user_id": "7", "item_id": "f1", "domain": "food", "timestamp": when.replace(tzinfo=UTC)}
    ]


def test_ids_that_are_floats_in_one_file_and_integers_in_the_other_are_the_same(tmp_path):
    actions = {"user_id": [1.0, 2.0, None], "item_id": [1000.0, 1001.0, 1000.0], "timestamp": [1500000000] * 3}
    pl.DataFrame(actions).write_parquet(tmp_path / "actions.parquet")
    pl.DataFrame({"item_id": [1000, 1001], "domain": ["food", "kitchen"]}).write_parquet(tmp_path / "items.parquet")
    cfg = DataConfig(interactions=tmp_path / "actions.parquet", items=tmp_path / "items.parquet", max_bad=0.5)
    result = ingest(cfg)
    assert [(row["user_id"], row["item_id"]) for row in result.interactions.to_pylist()] == [
        ("1", "1000"),
        ("2", "1001"),
    ]
    assert refusals(result) == [("actions.parquet", 3, "no_user")]


@pytest.mark.parametrize("max_bad", [0.5, 1.0])
def test_an_id_that_the_two_files_write_in_two_ways_is_named(take, max_bad):
    text = "user_id,item_id,timestamp\nu,2e+16,1500000000\nu,F1,1500000001\nu,x,1500000002\nu,f1,1500000003\n"
    said = (
        "2 interaction rows name an item that the items file writes otherwise: '2e+16' here, '20000000000000000' there."
    )
    listing = ITEMS + "20000000000000000,food,Cup\n"
    if max_bad == 1:
        assert take(text, listing).warnings[0].startswith(said)
    else:
        with pytest.raises(DataRefused, match=re.escape(said)):
            take(text, listing, max_bad=max_bad)


def test_a_rating_that_is_no_number_by_name_is_no_rating(take, take_parquet):
    words = ["NaN", "nan", "NULL", "None", "NA", "\\N", "n/a", ""]
    rows = [f"u,f1,150000000{number},{word}\n" for number, word in enumerate(words)]
    result = take("user_id,item_id,timestamp,rating\n" + "".join(rows) + "u,f1,1500000009,inf\n")
    assert refusals(result) == [("actions.csv", 10, "bad_rating")]
    assert result.interactions["rating"].null_count == len(words)
    typed = take_parquet(user_id=["u"], item_id=["f1"], timestamp=[1500000000], rating=[float("nan")])
    assert typed.interactions["rating"].to_pylist() == [None]


def test_ids_that_are_words_for_a_missing_value_are_kept_and_told_with_their_counts(take):
    result = take(
        "user_id,item_id,timestamp\nnan,f1,1500000000\nnan,f2,1500000000\n\\N,f1,1500000000\nNathan,k1,1500000000\n",
        ITEMS + "NA,kitchen,None\n",
    )
    assert result.interactions.num_rows == 4
    assert result.figures["words_for_missing"] == {
        "user_id '\\\\N' in interaction rows": 1, "user_id 'nan' in interaction rows": 2,
        "item_id 'NA' in item rows": 1, "title 'None' in item rows": 1,
    }  # fmt: skip
    assert "user_id 'nan' in interaction rows: 2" in result.warnings[0]


def test_every_column_may_be_a_dictionary(take_parquet):
    columns = {"user_id": ["7"], "item_id": ["f1"], "domain": ["food"], "timestamp": ["2020-01-01"], "rating": ["4.5"]}
    result = take_parquet(**{name: pl.Series(values, dtype=pl.Categorical) for name, values in columns.items()})
    assert result.interactions.to_pylist() == [
        {"user_id": "7", "item_id": "f1", "domain": "food", "timestamp": datetime(2020, 1, 1, tzinfo=UTC),
         "position": 0, "rating": 4.5}
    ]  # fmt: skip


def test_times_that_are_impossible_are_told_with_a_value_and_how_it_was_read(take):
    text = "user_id,item_id,timestamp\nu,f1,20210228\nu,f2,20210301\n"
    said = "2 times are outside of 1990 to 2100, the first of them '20210228', read as 1970-08-22"
    with pytest.raises(DataRefused, match=f'{said} .*timestamp_unit = "s"'):
        take(text, timestamp_unit="s")


def test_a_time_that_no_calendar_reaches_is_impossible(take):
    with pytest.raises(DataRefused, match="read as a day after the year 9999"):
        take("user_id,item_id,timestamp\nu,f1,9e14\n", timestamp_unit="s")
    with pytest.raises(DataRefused, match="read as a day before the year 1"):
        take("user_id,item_id,timestamp\nu,f1,-9e14\n", timestamp_unit="s")


def test_a_file_without_rows_is_named(take):
    header = "user_id,item_id,timestamp\n"
    with pytest.raises(UserError, match=r"actions.csv: no row, only the names of columns"):
        take(header)
    with pytest.raises(UserError, match=r"items.csv: no row, only the names of columns"):
        take(header + "u,f1,1500000000\n", "item_id,domain,title\n")


def test_what_no_other_domain_can_learn_from_is_told(take):
    header = "user_id,item_id,timestamp\n"
    assert take(header + "u,f1,1500000000\n", "item_id,domain\nf1,food\nf2,food\n").warnings == (
        "All items are of one domain, 'food': nothing can be carried to another.",
    )
    assert take(header + "u,f1,1500000000\n", "item_id,domain\nf1,food\nk1,kitchen\nk2,kitchen\n").warnings == (
        "Domains with one item, which every ranking puts first: 'food'.", "Domains with no action: 'kitchen'.",
    )  # fmt: skip


def test_a_folder_stands_for_its_parquet_files(tmp_path):
    for number, domain in enumerate(["food", "kitchen"]):
        folder = tmp_path / "items" / f"domain={domain}"
        folder.mkdir(parents=True)
        pl.DataFrame({"item_id": [domain[0] + "1"]}).write_parquet(folder / "part-0.parquet")
        actions = {"user_id": ["u"], "item_id": [domain[0] + "1"], "timestamp": [1500000000 + number]}
        (tmp_path / "actions").mkdir(exist_ok=True)
        pl.DataFrame(actions).write_parquet(tmp_path / "actions" / f"part-{number}.parquet")
    (tmp_path / "actions" / "_SUCCESS").write_text("")
    (tmp_path / "actions" / "_metadata.parquet").write_text("")
    cfg = DataConfig(interactions=tmp_path / "actions", items=tmp_path / "items")
    assert [path.name for path in cfg.sources()] == ["part-0.parquet", "part-1.parquet"] + ["part-0.parquet"] * 2
    assert ingest(cfg).interactions["domain"].to_pylist() == ["food", "kitchen"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValidationError, match="empty: a folder without Parquet files"):
        DataConfig(interactions=tmp_path / "empty", items=tmp_path / "items")


def test_a_missing_column_names_the_nearest(take):
    with pytest.raises(UserError, match=r"no column 'user_id' for user_id; the nearest is 'userId'.*\[data.columns\]"):
        take("userId,item_id,timestamp\nu,f1,1500000000\n")
    with pytest.raises(UserError, match=r"It has c0, .*, c19 and 980 more\. Set"):
        take(",".join(f"c{number}" for number in range(1000)) + "\n")
    with pytest.raises(UserError, match="no column 'stars' for rating"):
        take("user_id,item_id,timestamp\nu,f1,1500000000\n", columns={"rating": "stars"})
    with pytest.raises(UserError, match=r"items.csv: no column 'domain'.*one file per domain"):
        take("user_id,item_id,timestamp\nu,f1,1500000000\n", "item_id,title\nf1,x\n")


def test_a_domain_cannot_take_the_name_for_all_domains(take):
    with pytest.raises(UserError, match="cannot be called 'all'"):
        take("user_id,item_id,timestamp\nu,f1,1500000000\n", "item_id,domain\nf1,all\n")


NOON = datetime(2020, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-05-01", NOON - timedelta(hours=12)),
        ("2020-05-01 12:00", NOON),
        ("2020-05-01T12:00:00Z", NOON),
        ("2020-05-01T12:00:00.250", NOON + timedelta(milliseconds=250)),
        ("2020-05-01T14:00:00+02:00", NOON),
        ("2020-05-01T07:00:00.000-0500", NOON),
        ("2020-13-01", None),
        ("yesterday", None),
        ("2020-05-01 12:00:00+00", NOON),
        ("2020-05-01T04:00-08:00", NOON),
        ("20200501T120000Z", NOON),
        ("2020-05-01 12:00:00,250", NOON + timedelta(milliseconds=250)),
        ("2020-05-01 17:30:00.25+05:30", NOON + timedelta(milliseconds=250)),
        ("2020-05-01T14:00:00+02:00[Europe/Paris]", NOON),
        ("2020-05-01 12:00:00 +0000 UTC", NOON),
        ("20200501T1400+0200", NOON),
        ("2020-05-01T12Z", NOON),
        ("2020-04-30T24:00Z", NOON - timedelta(hours=12)),
        ("20200501", NOON - timedelta(hours=12)),
        ("20200501.0", NOON - timedelta(hours=12)),
        ("202005011200", NOON),
        ("20200501120000", NOON),
        ("20201301", None),
        ("2020-02-30T12:00-08:00", None),
        ("2020-05-01T25:00Z", None),
        ("2020-05-01T12:60Z", None),
        ("2020/05/01", None),
        ("1588334400", NOON),
        ("1588334400000", NOON),
        ("1588334400000000", NOON),
        ("1.5883344e9", NOON),
        ("inf", None),
        ("nan", None),
    ],
)
def test_a_time_is_read_by_its_form_and_size(text, expected):
    assert read_times(pl.Series([text, None]), "auto").to_list() == [expected, None]


def test_a_number_that_is_a_date_is_read_as_one_where_times_are_iso():
    midnight = NOON - timedelta(hours=12)
    assert read_times(pl.Series([20200501, None]), "iso").to_list() == [midnight, None]
    assert read_times(pl.Series([20200501.0, float("nan")]), "auto").to_list() == [midnight, None]


instants = st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 30), timezones=st.just(UTC))
zones = st.integers(-15 * 60 + 1, 15 * 60 - 1)


@settings(max_examples=200, deadline=None)
@given(
    instants, zones, st.sampled_from(["-", ""]), st.sampled_from([":", ""]), st.sampled_from("T "),
    st.sampled_from(".,"), st.sampled_from([":", "", " "]),
)  # fmt: skip
def test_a_time_in_any_form_of_iso_8601_is_read_to_the_millisecond(when, zone, dash, colon, mark, point, offset):
    when = when.replace(microsecond=when.microsecond // 1000 * 1000)
    local = when + timedelta(minutes=zone)
    hours, minutes = divmod(abs(zone), 60)
    text = local.strftime(f"%Y{dash}%m{dash}%d{mark}%H{colon}%M{colon}%S") + f"{point}{local.microsecond // 1000:03}"
    text += f"{' ' * (offset == ' ')}{'-' if zone < 0 else '+'}{hours:02}{offset.strip()}{minutes:02}"
    assert read_times(pl.Series([text]), "iso").to_list() == [when]


def test_a_unit_that_is_set_goes_before_the_size():
    assert read_times(pl.Series([1588334400]), "ms").to_list() == [datetime(1970, 1, 19, 9, 12, 14, 400000, tzinfo=UTC)]
    assert read_times(pl.Series([NOON.replace(tzinfo=None)]), "auto").to_list() == [NOON]


def test_the_amazon_formats_with_one_file_per_domain(tmp_path):
    def lines(name, *rows, dump=json.dumps):
        (tmp_path / name).write_text("".join(dump(row) + "\n" for row in rows))
        return tmp_path / name

    old = ingest(
        DataConfig(
            format="amazon-2014",
            interactions={
                "food": lines("f.json", {"reviewerID": "A", "asin": "1", "unixReviewTime": 1400000000, "overall": 4.0}),
                "kitchen": lines(
                    "k.json", {"reviewerID": "A", "asin": "2", "unixReviewTime": 1300000000, "overall": 2.0}
                ),
            },
            items={
                "food": lines("mf.json", {"asin": "1", "title": "Tom&#39;s tea", "categories": [["x"]]}, dump=repr),
                "kitchen": lines("mk.json", {"asin": "2"}, dump=repr),
            },
        )
    )
    assert old.interactions.select(["item_id", "domain", "rating"]).to_pylist() == [
        {"item_id": "2", "domain": "kitchen", "rating": 2.0},
        {"item_id": "1", "domain": "food", "rating": 4.0},
    ]
    assert old.items["title"].to_pylist() == ["Tom's tea", None]
    new = ingest(
        DataConfig(
            format="amazon-2023",
            interactions={
                "food": [
                    lines(
                        "a.jsonl",
                        {"user_id": "A", "parent_asin": "1", "asin": "9", "timestamp": 900000000000, "rating": 5},
                    ),
                    lines("b.jsonl", {"user_id": "B", "parent_asin": "1", "timestamp": 1600000000000, "rating": 5}),
                ]
            },
            items={"food": lines("m.jsonl", {"parent_asin": "1", "title": "Tea"})},
        )
    )
    assert [when.year for when in new.interactions["timestamp"].to_pylist()] == [1998, 2020]


def test_the_same_name_in_two_folders_is_told_apart(tmp_path):
    files = {}
    for domain in ("food", "kitchen"):
        (tmp_path / domain).mkdir()
        (tmp_path / domain / "a.csv").write_text(f"user_id,item_id,timestamp\nu,{domain[0]}1,1500000000\n,,\n")
        files[domain] = tmp_path / domain / "a.csv"
    (tmp_path / "items.csv").write_text(ITEMS)
    cfg = DataConfig(interactions=files, items=tmp_path / "items.csv", max_bad=1)
    assert refusals(ingest(cfg)) == [("food/a.csv", 3, "no_user"), ("kitchen/a.csv", 3, "no_user")]
    assert str(tmp_path) not in json.dumps(cfg.as_fingerprint())


cells = {
    "user_id": st.sampled_from(["a", "b", "c", "", " "]),
    "item_id": st.sampled_from(["f1", "f2", "k1", "zz", ""]),
    "domain": st.sampled_from(["food", "kitchen", ""]),
    "timestamp": st.sampled_from(["1500000000", "1500000001", "x", "", "-1"]),
    "rating": st.sampled_from(["1", "5", "", "bad"]),
}
whole_row = st.tuples(*cells.values()).map(",".join)
broken_row = st.sampled_from(["a,f1", 'x"y', 'a,f1,food,1500000000,"5', "a,f1,food,1500000000,5,6", "\\x"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(whole_row | broken_row, max_size=30),
    st.lists(st.sampled_from(["f1,food,x", "f1,kitchen,x", "k1,kitchen,&amp;", ",food,", "f2,,", "q"]), max_size=6),
    st.integers(1, 3),
    st.sampled_from([None, 3.0]),
)
def test_counts_add_up_exactly(take, actions, items, least, min_rating):
    kept = [f"z,k2,kitchen,150000000{number},5" for number in range(least)]
    text = "user_id,item_id,domain,timestamp,rating\n" + "".join(row + "\n" for row in kept + actions)
    listing = "item_id,domain,title\n" + "".join(row + "\n" for row in ["k2,kitchen,Wok", *items])
    result = take(text, listing, min_user=least, min_item=least, min_rating=min_rating)
    kinds = result.rejects["kind"].to_pylist()
    assert result.interactions.num_rows + kinds.count("interaction") == len(actions) + least
    assert result.items.num_rows + kinds.count("item") == len(items) + 1
    figures = result.figures
    assert sum((figures["bad"] | figures["filtered"]).values()) == len(kinds)
    positions: dict[str, list[int]] = {}
    for row in result.interactions.to_pylist():
        positions.setdefault(row["user_id"], []).append(row["position"])
    assert all(places == list(range(len(places))) and len(places) >= least for places in positions.values())


def test_food_kitchen_comes_through_whole():
    if "EDT_DATA" not in os.environ:
        pytest.skip("EDT_DATA is not set: the folder that holds food-kitchen/")
    folder = Path(os.environ["EDT_DATA"]) / "food-kitchen"
    result = ingest(DataConfig(interactions=folder / "interactions.parquet", items=folder / "items.parquet"))
    assert (result.interactions.num_rows, result.items.num_rows, result.rejects.num_rows) == (173_548, 28_095, 0)
    assert result.figures["items_without_text"] == 4_738
    raw = pl.read_parquet(folder / "interactions.parquet").sort("user_id", "position")
    assert result.interactions["item_id"].to_pylist() == raw["item_id"].to_list()
    assert not any("&amp;" in title for title in result.items["title"].to_pylist() if title)


def test_food_kitchen_imbalanced_comes_through_whole():
    data = Path(os.environ.get("EDT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    folder = data / "food-kitchen-imbalanced"
    if not folder.is_dir():
        pytest.skip(f"no food-kitchen-imbalanced in {data} (set EDT_DATA)")
    files = {name: folder / f"{name}.parquet" for name in ("interactions", "items")}
    queries = {f"{name}_queries": folder / f"queries-{name}.parquet" for name in ("validation", "test")}
    result = ingest(DataConfig(**files, times="order"), SplitConfig(by="queries", **queries))
    assert (result.interactions.num_rows, result.items.num_rows, result.rejects.num_rows) == (402_268, 36_298, 0)
    assert (result.figures["users"], result.figures["queries"]) == (51_164, {"test": 469, "validation": 960})


def test_a_format_is_added_by_one_line_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "shop", Format("customer", "sku", "day", "stars", "s"))
    (tmp_path / "food.csv").write_text("customer,sku,day,stars\nu1,a,1700000000,4\n")
    (tmp_path / "items.csv").write_text("sku,title\na,Tea\n")
    files = {"interactions": {"food": tmp_path / "food.csv"}, "items": {"food": tmp_path / "items.csv"}}
    made = ingest(DataConfig(format="shop", **files))
    assert made.interactions.select(["user_id", "item_id", "domain", "rating"]).to_pylist() == [
        {"user_id": "u1", "item_id": "a", "domain": "food", "rating": 4.0}
    ]


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(ValidationError, match="'columns', 'amazon-2014', 'amazon-2018' or 'amazon-2023'"):
        DataConfig(format="amazon-1999", interactions="a", items="b")


MANY = "user_id,item_id,domain,timestamp,position,rating\n" + "".join(
    f"u{row % 7},{('f1', 'f2', 'k1', 'zz')[row % 4]},,{1_500_000_000 + row // 3},{row % 5},{row % 6}\n"
    if row % 11
    else "u1,,\n"
    for row in range(200)
)


@pytest.mark.parametrize(
    "data", [{}, {"ties": "position"}, {"min_rating": 2, "min_user": 13, "min_item": 20}, {"times": "order"}]
)
@pytest.mark.parametrize(("batch", "part"), [(3, 1000), (1000, 20), (7, 30)])
def test_neither_batches_nor_parts_change_what_is_taken_or_refused(tmp_path, monkeypatch, data, batch, part):
    (tmp_path / "actions.csv").write_text(MANY)
    (tmp_path / "items.csv").write_text("item_id,domain,title\nf1,food,Tea\nf2,food,Rye\nk1,kitchen,Pan\n")
    cfg = DataConfig(interactions=tmp_path / "actions.csv", items=tmp_path / "items.csv", max_bad=1.0, **data)
    whole = ingest(cfg)
    monkeypatch.setattr(readers, "BATCH_ROWS", batch)
    dealt = ingest(cfg, rows=part)
    assert dealt.rejects.equals(whole.rejects)
    assert (dealt.figures, dealt.warnings) == (whole.figures, whole.warnings)
    assert dealt.interactions.sort_by([("user_id", "ascending"), ("position", "ascending")]).equals(whole.interactions)


def test_each_user_lies_in_one_part_whose_number_follows_from_the_id_alone():
    assert deal(pl.Series(["u1", "u2", "ü"]), 7).to_list() == [zlib.crc32(b"u1") % 7, 1, 4]


@pytest.mark.parametrize(("last", "kept"), [("3.0", ["1", "2", "3"]), ("B3", ["1.0", "2.0", "B3"])])
def test_whether_ids_were_kept_as_floats_is_told_by_the_whole_file(tmp_path, monkeypatch, last, kept):
    monkeypatch.setattr(readers, "BATCH_ROWS", 1)
    monkeypatch.setattr(readers, "BLOCK", 8)
    rows = "".join(f"{user},f1,{1_500_000_000}\n" for user in ("1.0", "2.0", last))
    (tmp_path / "actions.csv").write_text(f"user_id,item_id,timestamp\n{rows}")
    (tmp_path / "items.csv").write_text(ITEMS)
    found = ingest(DataConfig(interactions=tmp_path / "actions.csv", items=tmp_path / "items.csv"))
    assert found.interactions["user_id"].to_pylist() == kept


def test_refused_rows_that_went_to_the_disk_come_back_in_the_order_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(refused_rows, "AT_ONCE", 2)
    refused = Refused({tmp_path / "a.csv": "a.csv", tmp_path / "b.csv": "b.csv"}, tmp_path)
    for file, line in [(1, 5), (0, 9), (0, 2), (1, 1), (0, 3), (0, 8)]:
        row = {"file": [file], "line": [line], "reason": ["no_user"], "row": [""]}
        refused.add(pl.DataFrame(row, schema_overrides={"file": FILE}), "interaction")
    rows = [(row["file"], row["line"]) for table in refused.tables() for row in table.to_pylist()]
    assert rows == [("a.csv", 2), ("a.csv", 3), ("a.csv", 8), ("a.csv", 9), ("b.csv", 1), ("b.csv", 5)]
