"""Thinning removes training actions of one domain and nothing else."""

from pathlib import Path

import polars as pl
import pytest

from tests.benchmarks.conftest import lines_of, run_benchmark


def actions() -> pl.DataFrame:
    """Return eight actions of each of ten users, food and kitchen in turn; the last two are the targets."""
    domains = ["food", "kitchen"] * 4
    rows = [(f"u{user}", f"i{at}", domain, at) for user in range(10) for at, domain in enumerate(domains)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "domain", "position"], orient="row")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the actions as food-kitchen."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "food-kitchen").mkdir()
    actions().write_parquet(folder / "food-kitchen" / "interactions.parquet")
    items = actions().select("item_id", "domain").unique(maintain_order=True).with_columns(title="item_id")
    items.write_parquet(folder / "food-kitchen" / "items.parquet")
    return folder


@pytest.fixture(scope="module")
def thin(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    out = tmp_path_factory.mktemp("thin")
    shown = lines_of("thin", "--out", out, data=data)
    assert shown == ["7 of 10 users thinned", f"66 of 80 actions left in {out}"]  # of three in the domain one is left
    return out


def test_a_thinned_user_keeps_one_training_action_of_the_domain_and_both_targets(thin: Path) -> None:
    left, thinned = pl.read_parquet(thin / "interactions.parquet"), pl.read_parquet(thin / "thinned.parquet")
    assert len(thinned) == thinned["user_id"].n_unique() == 7
    for user, domain in thinned.iter_rows():
        own = left.filter(pl.col("user_id") == user)
        assert own.filter((pl.col("domain") == domain) & (pl.col("position") < 6)).height == 1
        assert own.filter((pl.col("domain") != domain) & (pl.col("position") < 6)).height == 3
        assert own["position"].tail(2).to_list() == [6, 7]


def test_the_other_users_keep_all_their_actions_in_order_and_all_items_stay(data: Path, thin: Path) -> None:
    left, thinned = pl.read_parquet(thin / "interactions.parquet"), pl.read_parquet(thin / "thinned.parquet")
    others = ~pl.col("user_id").is_in(thinned["user_id"].implode())
    assert left.filter(others).equals(actions().filter(others))
    assert (thin / "items.parquet").read_bytes() == (data / "food-kitchen" / "items.parquet").read_bytes()


def test_a_seed_repeats(data: Path, thin: Path, tmp_path: Path) -> None:
    lines_of("thin", "--out", tmp_path / "again", data=data)
    lines_of("thin", "--out", tmp_path / "other", "--seed", "1", data=data)
    first, again, other = (
        pl.read_parquet(folder / "interactions.parquet") for folder in (thin, tmp_path / "again", tmp_path / "other")
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_without_the_data_the_command_says_what_to_set(tmp_path: Path) -> None:
    done = run_benchmark("thin", "--out", tmp_path / "thin")
    assert done.returncode == 1
    assert done.stderr == (
        "EDT_DATA is not set. Set it to the folder that holds food-kitchen/interactions.parquet and "
        "food-kitchen/items.parquet.\n"
    )
    assert not (tmp_path / "thin").exists()
