"""Thinning removes training actions of one domain and nothing else."""

import polars as pl

from benchmarks.thin import thin


def _actions() -> pl.DataFrame:
    domains = ["food", "kitchen", "food", "kitchen", "food", "kitchen", "food", "kitchen"]
    rows = [(f"u{u}", f"i{k}", domain, k) for u in range(10) for k, domain in enumerate(domains)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "domain", "position"], orient="row")


def test_a_thinned_user_keeps_one_training_action_of_the_domain_and_both_targets():
    left, thinned = thin(_actions(), share=0.7, seed=0)
    assert len(thinned) == thinned["user_id"].n_unique() == 7
    assert len(left) == 80 - 7 * 2  # of three training actions in the domain one is left
    for user, domain in thinned.iter_rows():
        own = left.filter(pl.col("user_id") == user)
        assert own.filter((pl.col("domain") == domain) & (pl.col("position") < 6)).height == 1
        assert own.filter((pl.col("domain") != domain) & (pl.col("position") < 6)).height == 3
        assert own["position"].tail(2).to_list() == [6, 7]


def test_the_other_users_keep_all_their_actions_in_order():
    left, thinned = thin(_actions(), share=0.7, seed=0)
    others = ~pl.col("user_id").is_in(thinned["user_id"].implode())
    assert left.filter(others).equals(_actions().filter(others))


def test_a_seed_repeats():
    first, again, other = (thin(_actions(), share=0.7, seed=seed)[0] for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)
