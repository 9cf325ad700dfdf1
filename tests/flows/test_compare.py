"""`edt compare`: two evaluations that the lake keeps, or those of two settings files."""

import shutil

import polars as pl
import pytest

from data_lake.errors import UserError
from flows.compare import compare
from tests.flows.conftest import Place


@pytest.fixture(scope="module")
def twice(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run, and another one with a narrower network."""
    place = Place(tmp_path_factory.mktemp("twice") / "place")
    shutil.copytree(finished.folder, place.folder, symlinks=True)
    assert "finetune" in place.run(set_=("train.network.hidden=8",))
    return place


def test_it_names_the_setting_that_differs_and_measures_each_user_once(twice: Place) -> None:
    with twice.open("train.network.hidden=8") as run:
        found = compare(run, "previous", "current")
    assert found.changed == ["train.network.hidden 16 -> 8"]
    users = {row["users"] for row in found.differences if row["domain"] == "over all"}
    assert users == {twice.lake.read("sequences").num_rows}


def test_differences_are_those_of_the_ranks(twice: Place) -> None:
    with twice.open("train.network.hidden=8") as run:
        found = compare(run, "previous", "current")
    row = next(each for each in found.differences if (each["protocol"], each["metric"]) == ("full", "HR@10"))
    ranks = pl.DataFrame(twice.lake.read("ranks")).filter(
        pl.col("phase") == "finetune", pl.col("split") == "test", pl.col("protocol") == "full"
    )
    assert row["B"] == pytest.approx((ranks["rank"] <= 10).mean())


def test_the_users_who_moved_most_stand_first(twice: Place) -> None:
    with twice.open("train.network.hidden=8") as run:
        found = compare(run, "previous", "current")
    gains = [1 / each.rank_b - 1 / each.rank_a for each in found.won]
    losses = [1 / each.rank_b - 1 / each.rank_a for each in found.lost]
    assert gains == sorted(gains, reverse=True)
    assert min(gains) > 0
    assert losses == sorted(losses)
    assert max(losses) < 0


def test_what_the_users_chose_is_named_by_its_title(twice: Place) -> None:
    items = twice.lake.read("items")
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    with twice.open("train.network.hidden=8") as run:
        found = compare(run, "previous", "current")
    assert [each.title for each in found.won] == [titles[each.item_id] for each in found.won]
    assert found.won[0].title in str(found)


def test_a_run_compared_with_itself_differs_in_nothing(place: Place) -> None:
    with place.open() as run:
        found = compare(run, "current", place.lake.manifest("metrics").fingerprint[:8])
    assert (found.changed, found.rows, found.won, found.lost) == (["nothing that the runs record"], [], [], [])
    assert {row["B - A"] for row in found.differences} == {0.0}


def test_another_settings_file_names_its_own_current_run(place: Place) -> None:
    with place.open() as run:
        assert compare(run, "current", str(place.config)).a == compare(run, "current", "current").b


def test_a_generator_names_the_last_run_that_rests_on_its_replies(place: Place) -> None:
    place.run(set_=("enrich.generator=none",))
    with place.open("enrich.generator=none") as run:
        by_name, by_time = compare(run, "retrieval", "none"), compare(run, "previous", "current")
    assert by_name == by_time


@pytest.mark.parametrize("name", ["previous", "none", "abcd", "x"])
def test_a_run_that_is_not_kept_is_refused_with_those_that_are(place: Place, name: str) -> None:
    with (
        place.open() as run,
        pytest.raises(UserError, match=f"no run '{name}' to compare. The lake keeps [0-9a-f]{{8}} of"),
    ):
        compare(run, name, "current")
