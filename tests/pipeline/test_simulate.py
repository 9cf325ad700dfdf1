"""The sample world holds what its settings promise."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from pipeline.sample_world.simulate import SPAN, START, SimulateConfig, World, simulate, titles, write
from pipeline.sample_world.words import TASTES, WORDS


@pytest.fixture(scope="module")
def world() -> World:
    return simulate(SimulateConfig())


@pytest.fixture(scope="module")
def actions(world: World) -> pl.DataFrame:
    return pl.DataFrame(world.interactions)


def _with_truth(world: World) -> pl.DataFrame:
    items = pl.DataFrame(world.item_truth).select("item_id", "taste", "recipe", item_style="style")
    return pl.DataFrame(world.interactions).join(items, on="item_id", maintain_order="left")


def test_no_product_appears_twice_in_a_domain_and_every_taste_shows_in_each():
    for domain, tastes in WORDS.items():
        assert tuple(tastes) == TASTES
        names = [name for products in tastes.values() for name in products]
        assert len(names) == len(set(names)) == 120, domain


def test_the_defaults_make_two_thousand_users_and_twelve_hundred_items_in_each_of_two_domains(world, actions):
    assert actions["user_id"].n_unique() == 2000
    assert 19 < len(actions) / 2000 < 21
    assert world.items["domain"].value_counts().to_pylist() == [
        {"values": "food", "counts": 1200},
        {"values": "kitchen", "counts": 1200},
    ]
    assert set(actions["item_id"]) <= set(world.items["item_id"].to_pylist())


@pytest.mark.parametrize(("first", "mains"), [(1.0, {"food"}), (0.0, {"kitchen", "books"})])
def test_a_knob_says_whose_main_domain_is_the_first(first, mains):
    domains = ("food", "kitchen", "books")
    world = simulate(SimulateConfig(users=200, items=40, domains=domains, first=first))
    assert set(world.user_truth["main_domain"].drop_null().to_pylist()) == mains


def test_titles_are_distinct_and_a_taste_can_be_read_from_them():
    world = simulate(SimulateConfig(users=10, items=20_000, missing_titles=0, escaped_titles=0))
    items = pl.DataFrame(world.items)
    assert items["title"].n_unique() == 40_000
    coffee = items["title"].filter(pl.Series(world.item_truth["taste"].to_pylist()) == "coffee")
    words = "Espresso|Coffee|Cold Brew|Oat Milk|Latte|Milk Frother"
    assert coffee.str.contains(words).all()


def test_a_title_is_brand_style_product_and_extra():
    one = np.array([0])
    coffee, second_recipe, premium = one, one + 1, one + 3
    (title,) = titles("kitchen", coffee, second_recipe, premium, one).to_pylist()
    assert re.fullmatch(r".+ (Premium|Luxury|Gourmet) Burr Coffee Grinder, .+", title)


def test_a_user_acts_at_strictly_rising_times_within_two_years(actions):
    gaps = actions.select(pl.col("timestamp").diff().over("user_id")).drop_nulls()
    assert gaps["timestamp"].min() >= 1
    assert actions["timestamp"].min() >= START
    assert actions["timestamp"].max() <= START + SPAN


def test_half_of_the_users_end_in_a_domain_where_they_have_at_most_one_training_action(world, actions):
    scarce = pl.DataFrame(world.user_truth).filter("scarce_targets")
    assert len(scarce) == 1000
    own = actions.join(scarce, on="user_id", maintain_order="left")
    in_scarce = own.with_columns(hit=pl.col("domain") == pl.col("scarce_domain"))
    per_user = in_scarce.group_by("user_id").agg(last=pl.col("hit").tail(2).all(), all=pl.col("hit").sum())
    assert per_user["last"].all()
    assert set(per_user["all"]) == {2, 3}  # the two targets, and none or one before them


def test_most_users_have_nearly_all_training_actions_in_one_domain(actions):
    training = actions.filter(pl.int_range(pl.len()).over("user_id") < pl.len().over("user_id") - 2)
    share = training.group_by("user_id").agg(pl.col("domain").unique_counts().max() / pl.len())["domain"]
    assert (share >= 0.9).mean() > 0.7


def test_without_noise_every_action_is_of_one_of_the_users_tastes():
    world = simulate(SimulateConfig(users=200, noise=0))
    rows = _with_truth(world).join(pl.DataFrame(world.user_truth), on="user_id")
    assert rows.select(pl.col("taste").is_in(pl.col("tastes"))).to_series().all()
    assert world.interactions["rating"].to_numpy().min() >= 3


def test_the_recipe_after_a_recipe_is_far_likelier_than_chance(world):
    rows = _with_truth(world)
    step = rows.select(
        step=(pl.col("recipe") - pl.col("recipe").shift(1).over("user_id")) % 6,
        same_taste=pl.col("taste") == pl.col("taste").shift(1).over("user_id"),
    ).filter("same_taste")
    assert (step["step"] == 1).mean() > 0.5  # by chance 1/6


def test_the_style_of_a_user_is_the_same_in_both_domains(world):
    rows = _with_truth(world).join(pl.DataFrame(world.user_truth), on="user_id")
    for domain in ("food", "kitchen"):
        own = rows.filter(pl.col("domain") == domain)
        assert (own["item_style"] == own["style"]).mean() > 0.5


def test_a_user_seldom_takes_an_item_twice(actions):
    distinct = actions.select(pl.struct("user_id", "item_id").n_unique()).item()
    assert 0.97 < distinct / len(actions) < 1


def test_some_titles_are_missing_and_some_are_written_as_html(world):
    title = pl.DataFrame(world.items)["title"]
    assert 5 <= title.null_count() <= 60
    assert title.str.contains("&amp;|&#39;").sum() > 10
    clean = simulate(SimulateConfig(users=1, missing_titles=0, escaped_titles=0)).items["title"]
    assert clean.null_count == 0
    assert not any("&amp;" in title for title in clean.to_pylist())


def test_a_seed_repeats_and_another_seed_differs():
    again, same, other = (simulate(SimulateConfig(users=50, seed=seed)) for seed in (3, 3, 4))
    assert again == same
    assert again.interactions != other.interactions
    assert again.items != other.items


def test_three_domains_and_a_domain_without_words_of_its_own():
    world = simulate(SimulateConfig(users=300, items=600, domains=("books", "garden", "toys"), missing_titles=0))
    assert set(world.interactions["domain"].to_pylist()) == {"books", "garden", "toys"}
    toys = pl.DataFrame(world.items).filter(pl.col("domain") == "toys")["title"]
    assert toys.n_unique() == 600
    assert toys.str.contains(" Toys ").all()


def test_a_catalogue_with_fewer_items_than_kinds_still_serves_every_taste():
    world = simulate(SimulateConfig(users=500, items=30, noise=0))
    tastes = _with_truth(world).join(pl.DataFrame(world.user_truth), on="user_id")
    assert tastes.select(pl.col("taste").is_in(pl.col("tastes"))).to_series().all()


def test_the_files_hold_the_world_and_the_truth_only_on_request(tmp_path: Path):
    world = simulate(SimulateConfig(users=20, items=40))
    assert [path.name for path in write(world, tmp_path)] == ["interactions.csv", "items.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["interactions.csv", "items.csv"]
    assert pl.read_csv(tmp_path / "interactions.csv").to_dicts() == world.interactions.to_pylist()
    assert pl.read_csv(tmp_path / "items.csv").to_dicts() == world.items.to_pylist()
    paths = write(world, tmp_path, "parquet", truth=True)
    tables = (world.interactions, world.items, world.user_truth, world.item_truth)
    assert [pl.read_parquet(path).to_dicts() for path in paths] == [table.to_pylist() for table in tables]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"domains": ("food", "food")}, "different names"),
        ({"domains": ("food", "all")}, "different names"),
        ({"scarce": 0.96}, "cannot exceed imbalanced"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        SimulateConfig(**settings)
