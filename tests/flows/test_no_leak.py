"""Poisoning: with other validation and test items, nothing that enrichment or training reads may change."""

import shutil

import numpy as np
import polars as pl
import pytest

from data_lake.schemas import SPLITS

GENERATORS = ("retrieval", "cooccurrence")
ENRICHED = (
    "probes", "representatives", "generated_items", "grounded_items", "answer_lift", "domain_profiles", "user_profiles",
    "profile_embeddings",
)  # fmt: skip


def poison(place):
    """Permute the items of all validation and test actions within their domain."""
    path = place.folder / "interactions.csv"
    table = pl.read_csv(path).with_row_index("row")
    from_end = pl.len().over("user_id") - 1 - pl.int_range(pl.len()).over("user_id")
    last_two = table.sort("user_id", "timestamp", maintain_order=True).filter(from_end < 2)
    rng = np.random.default_rng(0)
    parts = [
        part.with_columns(item_id=pl.Series(rng.permutation(part["item_id"].to_numpy())))
        for _, part in last_two.group_by("domain", maintain_order=True)
    ]
    poisoned = table.update(pl.concat(parts).select("row", "item_id"), on="row")
    assert (poisoned["item_id"] != table["item_id"]).sum() > len(last_two) / 2
    poisoned.drop("row").write_csv(path)


def enriched(place, generator):
    """Make everything up to the training set; return the content hash of each artifact, and the training set."""
    with place.open(f"enrich.generator={generator}", "enrich.examples=1", to="assemble") as run:
        made = [run.lake.run(stage) for stage in run.selection.apply(run.stages)]
        content = {name: output.content for manifest in made for name, output in manifest.outputs.items()}
        tables = {name: pl.DataFrame(run.lake.read("training_set", name)) for name in ("sequences", "items")}
    return content, tables


def trained_on(sequences):
    """Return the training part of each sequence."""
    is_train = pl.col("splits") == SPLITS.index("train")
    lists = ["items", "times", "splits", "synthetic"]
    return sequences.explode(lists).filter(is_train).select("user", *lists)


@pytest.mark.parametrize("generator", GENERATORS)
def test_no_validation_or_test_item_reaches_prompts_answers_profiles_or_training_targets(
    fresh_place, tmp_path, generator
):
    clean, (clean_content, clean_tables) = fresh_place, enriched(fresh_place, generator)
    folder = tmp_path / "poisoned"
    shutil.copytree(clean.folder, folder, symlinks=True)
    poisoned = type(clean)(folder)
    poison(poisoned)
    content, tables = enriched(poisoned, generator)
    assert content["sequences"] != clean_content["sequences"]
    assert {name: content[name] for name in ENRICHED} == {name: clean_content[name] for name in ENRICHED}
    assert tables["items"].equals(clean_tables["items"])
    assert trained_on(tables["sequences"]).equals(trained_on(clean_tables["sequences"]))
