"""`edt show`: what an artifact holds, in a screen, and those of its rows that are asked for."""

import json
import re
import sys

import polars as pl
import pytest

from data_lake.errors import UserError
from data_lake.schemas import ARTIFACTS
from flows.show import Wanted, describe, format_artifact


def test_grounded_items_show_what_was_kept_and_dropped(finished):
    figures = finished.lake.manifest("grounded_items").figures
    shown = format_artifact(describe(finished.lake, "grounded_items"))
    for reason, count in figures["dropped"].items():
        assert re.search(rf"^dropped: {reason} +{count:,}$", shown, re.MULTILINE)
    assert re.search(rf"^kept +{figures['kept']:,}$", shown, re.MULTILINE)
    assert "recall" not in shown


def _part(auc: float, answers: int, share: float) -> dict:
    relevance = {"food": {"auc": auc, "auc_of_text": 0.5}}
    return {"relevance": relevance, "worth": {"a to b": {"band 0": {"band": 0, "answers": answers, "share": share}}}}


def test_what_the_noise_filter_learnt_is_shown_over_all_parts_of_the_users(finished):
    shown = describe(finished.lake, "grounded_items")
    shown["figures"] = {"noise_filter": {"part 0": _part(0.6, 10, 0.2), "part 1": _part(0.8, 30, 0.4)}}
    assert [line.split() for line in format_artifact(shown).splitlines()[5:10]] == [
        ["domain", "auc", "auc_of_text"],
        ["food", "0.7000", "0.5000"],
        [],
        ["pair", "band", "answers", "share"],
        ["a", "to", "b", "0", "40", "0.3000"],
    ]


@pytest.mark.parametrize("artifact", [artifact for artifact in ARTIFACTS if artifact != "item_descriptions"])
def test_every_artifact_of_a_run_without_descriptions_can_be_shown(finished, artifact):
    shown = describe(finished.lake, artifact)
    assert json.loads(json.dumps(shown, allow_nan=False))["artifact"] == artifact
    assert shown["fingerprint"] == finished.lake.manifest(artifact).fingerprint
    assert len(shown["rows"]) == (shown["found"] if artifact == "metrics" else min(5, shown["count"]))
    assert format_artifact(shown).startswith(artifact)


def test_a_user_s_rows_are_found_in_the_trainer_s_numbers_too(finished):
    user = finished.lake.read("sequences")["user_id"][3].as_py()
    assert [row["user_id"] for row in describe(finished.lake, "sequences", Wanted(user))["rows"]] == [user]
    assert [row["user"] for row in describe(finished.lake, "training_set", Wanted(user))["rows"]] == [4]
    nobody = describe(finished.lake, "sequences", Wanted("nobody"))
    assert nobody["rows"] == []
    assert format_artifact(nobody).endswith("No row to show.")


def test_metrics_are_a_page_of_a_line_per_protocol_and_domain(finished):
    shown = describe(finished.lake, "metrics")
    page = format_artifact(shown).splitlines()
    at = page.index("finetune, test, all; value [95 % interval over users]")
    assert page[-1] == "sampled-100 is the full ranking in food and kitchen, which have fewer items than that."
    assert [line.split()[:2] for line in page[at + 2 : -1]] == [
        ["full", "over"], ["full", "food"], ["full", "kitchen"],
        ["sampled-100", "over"], ["sampled-100", "food"], ["sampled-100", "kitchen"],
    ]  # fmt: skip
    assert max(map(len, page[at:])) < 200


def test_metrics_that_do_not_fit_with_their_intervals_are_shown_without(finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    page = format_artifact(describe(finished.lake, "metrics")).partition("\n\n")[2]
    table, _, notes = page.partition("\nIntervals: ")
    assert max(map(len, table.splitlines())) <= 80
    assert notes.startswith("in a terminal of 1")
    one = format_artifact(describe(finished.lake, "metrics", Wanted(metric="HR@10"))).partition("\n\n")[2]
    assert "value [95 % interval over users]" in one
    assert max(map(len, one.splitlines()[:4])) <= 80


def test_metrics_are_narrowed_by_name(finished):
    wanted = Wanted(phase="pretrain", split="validation", group="scarce-domain", metric="MRR")
    rows = describe(finished.lake, "metrics", wanted)["rows"]
    named = {(row["phase"], row["split"], row["group"], row["metric"]) for row in rows}
    assert named == {("pretrain", "validation", "scarce-domain", "MRR")}


def test_another_artifact_is_not_narrowed_by_names_of_metrics(finished):
    with pytest.raises(UserError, match=r"--split is for metrics\. Narrow sequences with --where\."):
        describe(finished.lake, "sequences", Wanted(split="test"))


def test_where_keeps_the_rows_for_which_it_holds(finished):
    shown = describe(finished.lake, "items", Wanted(where="domain = 'food' and title is not null", limit=3))
    items = pl.DataFrame(finished.lake.read("items"))
    assert shown["found"] == len(items.filter(pl.col("domain") == "food", pl.col("title").is_not_null()))
    assert [row["domain"] for row in shown["rows"]] == ["food"] * 3


@pytest.mark.parametrize("where", ["no_column = 1", "domain = ", "1; drop table self"])
def test_a_condition_that_is_none_names_the_columns(finished, where):
    with pytest.raises(UserError, match=r"--where .*The columns are item_id, domain, title, text\.$"):
        describe(finished.lake, "items", Wanted(where=where))


def test_items_are_shown_with_their_titles(finished):
    shown = describe(finished.lake, "sequences", Wanted(limit=1))
    titles = dict(zip(*(finished.lake.read("items")[name].to_pylist() for name in ("item_id", "title")), strict=True))
    first = shown["rows"][0]["item_ids"][0]
    assert shown["titles"][first] == titles[first]
    assert f"{first} ({titles[first]})" in format_artifact(shown, whole=True)


def test_rows_that_fit_the_terminal_are_one_table_and_others_stand_one_below_the_other(finished, monkeypatch):
    shown = describe(finished.lake, "recommendations", Wanted(limit=2))
    monkeypatch.setenv("COLUMNS", "200")
    *_, table, count = format_artifact(shown).split("\n\n")
    assert count == f"2 of {shown['found']:,} rows shown."
    head, *rows = table.splitlines()
    assert head.split() == ["user_id", "domain", "rank", "item_id", "title", "score"]
    assert [row.split()[2] for row in rows] == ["1", "2"]
    monkeypatch.setenv("COLUMNS", "40")
    *_, second, count = format_artifact(shown).split("\n\n")
    assert [line.split()[0] for line in second.splitlines()] == ["column", *head.split()]


def test_whole_cuts_neither_texts_nor_lists(finished):
    shown = describe(finished.lake, "sequences", Wanted(where="length(user_id) > 0", limit=1))
    last = shown["rows"][0]["item_ids"][-1]
    assert f'"{last} (' in format_artifact(shown, whole=True) or f'"{last}"' in format_artifact(shown, whole=True)
    assert "…" not in format_artifact(shown, whole=True)


def test_a_user_whom_the_artifact_does_not_know_ends_with_one(finished):
    done = finished.edt("show", "sequences", "--user", "nobody")
    assert (done.returncode, done.stderr) == (1, "error: sequences has no row of user 'nobody'.\n")
