"""Each action's role: hand-made histories, exact answers."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from pydantic import ValidationError

from data_lake.errors import UserError
from data_lake.schemas import INTERACTIONS, QUERIES, SEQUENCES
from pipeline.config import SplitConfig
from pipeline.split import NO_QUERIES, Split


def day(number):
    return datetime(2020, 1, number, tzinfo=UTC)


def interactions(**days):
    """One user per keyword: the days of January on which they acted, on items i0, i1, ..."""
    rows = [
        (user, f"i{place}", "food" if place % 2 else "kitchen", day(when), place, None)
        for user, whens in days.items()
        for place, when in enumerate(whens)
    ]
    columns = list(zip(*rows, strict=True))
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, INTERACTIONS.tables[""], strict=True)], INTERACTIONS.tables[""]
    )


def split(table, cfg, queries=NO_QUERIES):
    span = (min(table["timestamp"].to_pylist()), max(table["timestamp"].to_pylist())) if cfg.by == "time" else None
    found = Split(cfg, queries=queries, span=span)
    return found.sequences(table), found.figures()


def roles(table):
    return dict(zip(table["user_id"].to_pylist(), table["splits"].to_pylist(), strict=True))


def test_leave_one_out_takes_the_last_two_actions_and_spares_short_histories():
    table, figures = split(interactions(b=[1, 1, 1, 2], a=[5, 6], c=[1, 2, 3]), SplitConfig())
    assert table.schema.equals(SEQUENCES.tables[""])
    assert roles(table) == {
        "a": ["train", "train"],
        "b": ["train", "train", "validation", "test"],
        "c": ["train", "validation", "test"],
    }
    assert table["item_ids"].to_pylist()[1] == ["i0", "i1", "i2", "i3"]
    assert table["domains"].to_pylist()[1] == ["kitchen", "food", "kitchen", "food"]
    assert table["timestamps"].to_pylist()[1] == [day(1), day(1), day(1), day(2)]
    assert table["user_id"].to_pylist() == ["a", "b", "c"]
    assert figures == {
        "users": 3,
        "users_left_out": 0,
        "users_only_trained_on": 1,
        "actions_left_out": 0,
        "actions": {"train": 5, "validation": 2, "test": 2, "context": 0},
    }


def test_a_domain_without_targets_is_found():
    found = Split(SplitConfig())
    found.sequences(interactions(a=[1, 2, 3], b=[1, 2, 3], c=[1, 2]))
    assert found.domains_without_targets() == {"test": ["food"], "validation": ["kitchen"]}


def test_leave_one_out_of_histories_that_are_all_too_short_is_an_error():
    with pytest.raises(UserError, match="leaves no test target: no user has 3 actions"):
        split(interactions(a=[1, 2], b=[1]), SplitConfig())


def test_by_time_the_first_action_in_each_window_is_the_target():
    cfg = SplitConfig(by="time", validation_from=day(10), test_from=day(20))
    table, figures = split(
        interactions(both=[1, 10, 11, 20, 25], late=[10, 15, 21], short=[9, 20], train=[1, 2, 3], test=[1, 19, 20, 20]),
        cfg,
    )
    assert roles(table) == {
        "both": ["train", "validation", "context", "test", "context"],
        "short": ["train", "context"],
        "test": ["train", "validation", "test", "context"],
        "train": ["train", "train", "train"],
    }
    assert (figures["users"], figures["users_left_out"], figures["actions_left_out"]) == (4, 1, 3)
    assert figures["actions"] == {"train": 6, "validation": 2, "test": 2, "context": 4}
    assert figures["validation_from_ms"] == day(10).timestamp() * 1000


def test_days_are_counted_back_from_the_day_of_the_last_action():
    table, figures = split(interactions(a=[1, 2, 3, 4, 5]), SplitConfig(by="time", validation_days=1, test_days=2))
    assert roles(table) == {"a": ["train", "train", "validation", "test", "context"]}
    assert figures["test_from_ms"] == day(4).timestamp() * 1000


def test_a_window_without_a_target_is_an_error_that_tells_the_span():
    cfg = SplitConfig(by="time", validation_from=day(10), test_from=day(20))
    with pytest.raises(
        UserError, match=r"0 test targets from 2020-01-20 on; the actions run from 2020-01-01 to 2020-01-12"
    ):
        split(interactions(a=[1, 2, 12]), cfg)


@pytest.mark.parametrize("instants", [{"test_from": day(2)}, {"validation_from": day(3), "test_from": day(2)}])
def test_instants_go_together_and_in_order(instants):
    with pytest.raises(ValidationError):
        SplitConfig(by="time", **instants)


def test_rows_in_any_order_give_the_same_sequences():
    table = interactions(b=[1, 2, 3], a=[1, 2, 3, 4])
    mixed = table.take([6, 0, 3, 1, 5, 2, 4])
    assert split(mixed, SplitConfig())[0].equals(split(table, SplitConfig())[0])


FILES = {"validation_queries": "v.csv", "test_queries": "t.csv"}


def test_queries_are_read_and_asked_about_and_all_interactions_are_trained_on():
    whole = interactions(v=[1, 2, 3], t=[1, 2], a=[1, 2, 3, 4], b=[1])
    users = whole["user_id"].to_pylist()
    queries = whole.take([row for row, user in enumerate(users) if user in "vt"])
    asked = {"v": "validation", "t": "test"}
    queries = queries.append_column(
        QUERIES.tables[""].field("split"), pa.array([asked[user] for user in queries["user_id"].to_pylist()])
    )
    trained = whole.take([row for row, user in enumerate(users) if user in "ab"])
    table, figures = split(trained, SplitConfig(by="queries", **FILES), queries)
    assert roles(table) == {
        "a": ["train", "train", "train", "train"],
        "b": ["train"],
        "t": ["context", "test"],
        "v": ["context", "context", "validation"],
    }
    assert table["item_ids"].to_pylist()[3] == ["i0", "i1", "i2"]
    assert figures == {
        "users": 4,
        "users_left_out": 0,
        "users_only_trained_on": 2,
        "actions_left_out": 0,
        "actions": {"train": 5, "validation": 1, "test": 1, "context": 3},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"by": "queries", "validation_queries": "v.csv"}, "needs test_queries: a file of histories"),
        ({"by": "time", **FILES}, 'validation_queries is read only with by = "queries"'),
    ],
)
def test_files_of_queries_and_a_split_by_queries_go_together(given, message):
    with pytest.raises(ValidationError, match=message):
        SplitConfig(**given)


def test_a_folder_of_queries_that_was_moved_changes_no_fingerprint():
    cfg = SplitConfig(by="queries", validation_queries="/here/v.csv", test_queries=("/here/t.csv", "/here/u.csv"))
    there = SplitConfig(by="queries", validation_queries="/there/v.csv", test_queries=("/there/t.csv", "/there/u.csv"))
    assert cfg.as_fingerprint() == there.as_fingerprint()
    assert cfg.as_fingerprint()["test_queries"] == [(None, "t.csv"), (None, "u.csv")]
    assert [path.name for path in cfg.sources()] == ["v.csv", "t.csv", "u.csv"]
