import json

import pyarrow as pa
import pytest

from data_lake.keyed_cache import KeyedCache
from data_lake.schemas import REPRESENTATIVES, SEQUENCES
from pipeline.augment.examples import example_text, load_or_choose_examples
from pipeline.config import DomainConfig, EnrichConfig

PAIR = ("food", "kitchen")
CFG = EnrichConfig(examples=2, prompt_share=0.9)
WORLD = {f"u{number}": (["f1", f"f{number}"], ["k1", f"k{number}"]) for number in range(2, 9)}


@pytest.fixture
def cache(tmp_path):
    return KeyedCache(tmp_path / "examples")


def tables(world, shown_more=""):
    """Representatives as given; sequences in which each user's shown part holds exactly them, and more behind it."""
    rows = [
        {
            "user_id": user,
            "domain": domain,
            "item_ids": ids,
            "actions": len(ids),
            "budget": 0,
            "shown": 4,
            "seen": 3,
            "forbidden": 4,
        }
        for user, both in world.items()
        for domain, ids in zip(PAIR, both, strict=True)
    ]
    sequences = []
    for user, (food, kitchen) in world.items():
        ids = [*food, *kitchen, *shown_more.split(), "w", "v", "t"]  # withheld, validation, test
        splits = ["train"] * (len(ids) - 2) + ["validation", "test"]
        times = pa.array(range(len(ids)), pa.timestamp("us", tz="UTC")).to_pylist()
        domains = ["kitchen" if each.startswith("k") else "food" for each in ids]
        sequences.append({
            "user_id": user, "item_ids": ids, "domains": domains, "timestamps": times, "splits": splits,
        })  # fmt: skip
    return (
        pa.Table.from_pylist(rows, schema=REPRESENTATIVES.tables[""]),
        pa.Table.from_pylist(sequences, schema=SEQUENCES.tables[""]),
    )


def chosen(world, cache, cfg=CFG, **more):
    return load_or_choose_examples(*tables(world, **more), [PAIR], cfg, cache)[PAIR]


def test_examples_are_users_of_both_domains_chosen_by_a_seed(cache, tmp_path):
    found = chosen(WORLD, cache)
    assert len(found) == 2
    assert all(each in WORLD.values() for each in map(tuple, found))
    assert found == chosen(dict(reversed(WORLD.items())), KeyedCache(tmp_path / "other"))
    seeds = {json.dumps(chosen(WORLD, cache, EnrichConfig(examples=2, seed=seed))) for seed in range(5)}
    assert len(seeds) > 1


def test_who_is_active_in_one_domain_is_no_example(cache):
    assert chosen({"u": (["f1", "f2"], []), "v": ([], ["k1"]), "w": (["f1"], ["k1"])}, cache) == [(["f1"], ["k1"])]


def test_a_probe_is_no_example(cache):
    representatives, sequences = tables({"u1": (["f1"], ["k1"]), "u1 without books": (["f1"], ["k1"])})
    real = sequences.slice(0, 1)
    assert load_or_choose_examples(representatives, real, [PAIR], CFG, cache)[PAIR] == [(["f1"], ["k1"])]


def test_a_new_user_and_a_new_action_of_an_examples_user_change_no_example(cache):
    before = chosen(WORLD, cache)
    grown = {f"n{number}": (["f1", "f2"], ["k1", "k2"]) for number in range(50)}
    changed = {user: (["f1", "f99"], kitchen) for user, (_, kitchen) in WORLD.items()}
    both = dict(WORLD) | grown
    assert chosen(both, cache) == before
    representatives, _ = tables(changed)
    _, sequences = tables(WORLD, shown_more="f99 f99")
    assert load_or_choose_examples(representatives, sequences, [PAIR], CFG, cache)[PAIR] == before


def test_an_example_that_prompts_may_no_longer_show_is_replaced(cache):
    first, second = chosen(WORLD, cache)
    gone = {user: both for user, both in WORLD.items() if list(both) != list(map(list, first))}
    assert len(gone) == len(WORLD) - 1
    after = chosen(gone, cache)
    assert after[0] == second
    assert after[1] not in (first, second)
    assert chosen(WORLD, cache) == after


def test_an_example_never_holds_a_withheld_a_validation_or_a_test_action(cache):
    world = {"u": (["f1", "f2"], ["k1", "k2"])}
    for late in ("w", "v", "t"):
        held = [{"user_id": "u", "from": ["f1", late], "to": ["k1"]}]
        cache.put(pa.table({"key": [key_of(CFG)], "examples": [json.dumps(held)]}))
        assert chosen(world, cache) == [(["f1", "f2"], ["k1", "k2"])]


def key_of(cfg):
    from pipeline.augment.examples import _key

    return _key(PAIR, cfg)


def test_an_example_reads_as_a_question_and_the_reply_it_would_make():
    titles = {"f1": "Rice", "k1": 'Pan "28 cm"', "k2": "Pot"}
    lines = {title: json.dumps(title) for title in titles.values()}
    about = {"kitchen": DomainConfig(describe="pots and pans")}
    text = example_text([(["f1", "gone"], ["k1", "k2"])], PAIR, about, titles, lines)
    assert text.splitlines() == [
        "Another customer chose in food:",
        '"Rice"',
        "and in kitchen (pots and pans):",
        '{"items": ["Pan \\"28 cm\\"", "Pot"]}',
    ]
