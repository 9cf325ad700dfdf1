"""The report: what it collects, and that every text in it stays text."""

import hashlib
import json
import re
from datetime import date, datetime

import polars as pl
import pyarrow as pa
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from data_lake.lake import Stage
from flows.report.charts import bars
from flows.report.data import imbalance_bins, timeline
from flows.report.metrics import Measured, Paired, paired_by_group
from flows.report.page import SECTIONS, render
from flows.report.report import collect
from flows.report.write import write_report
from flows.stages import ASKING
from pipeline.llm.backends import BACKENDS
from pipeline.llm.generator import Reply
from pipeline.llm.generator_wrapper import GeneratorWrapper
from pipeline.llm.tokens import BY_CHARACTERS
from tests.browser import CHROMIUM, chromium
from tests.flows.by_default import OFF

SCRIPT = "<script>document.title = 'it ran'</script>"


def report_of(place, *overrides):
    with place.open(*overrides) as run:
        return collect(run)


def replace_items(lake, **columns):
    """Give all items of a lake one value in some columns."""
    table = lake.read("items")
    for name, value in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array([value] * table.num_rows, pa.string()))
    lake.run(Stage("ingest", 0, (), ("items",), columns, lambda io: io.write("items", table)))


def test_a_run_writes_the_report_and_links_it_from_its_page(finished):
    path = finished.lake.home / "report.html"
    with get_client(sync_client=True) as client:
        keys = ArtifactFilter(key=ArtifactFilterKey(any_=["report"]))
        linked = {artifact.data for artifact in client.read_artifacts(artifact_filter=keys, limit=200)}
    assert f"[Report of tiny]({path.as_uri()})" in linked
    assert path.stat().st_size < 3_000_000


def test_a_setting_turns_the_report_after_a_run_off(place):
    (place.lake.home / "report.html").unlink()
    place.run(only="recommend", set_=("recommend.top=3", "report.after_run=false"))
    assert not (place.lake.home / "report.html").exists()


def test_edt_report_prints_the_path_of_the_page_that_it_wrote(finished, tmp_path):
    done = finished.edt("report", "--out", str(tmp_path / "page.html"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'page.html'}\n"), done.stderr
    assert (tmp_path / "page.html").read_text().lstrip().startswith("<!doctype html>")


def test_the_same_lake_gives_the_same_page(finished):
    assert render(report_of(finished)) == render(report_of(finished))


def test_before_anything_was_made_every_part_says_so(fresh_place):
    page = render(report_of(fresh_place))
    assert re.findall(r'<section id="(\w+)"', page) == list(SECTIONS)
    assert page.count("not there yet") == len(SECTIONS) - 1  # of leaks there is nothing to prove


def test_what_the_settings_turn_off_is_not_shown_although_the_lake_holds_it(finished):
    report = report_of(finished, "enrich.generator=none")
    assert (report.asking, report.data.imbalance.after, report.positions) == (None, [], [])
    assert not any(action.is_inserted for user in report.users for action in user.history)


def test_users_are_counted_by_the_share_of_their_largest_domain_in_training():
    sequences = pl.LazyFrame(
        {
            "user_id": ["even", "three quarters", "one domain", "never trained"],
            "domains": [["a", "b", "b"], ["a", "a", "b", "a"], ["b", "b"], ["a"]],
            "splits": [["train", "train", "test"], ["train"] * 4, ["train"] * 2, ["test"]],
        }
    )
    bins = imbalance_bins(sequences)
    assert {place: count for place, count in enumerate(bins) if count} == {10: 1, 15: 1, 20: 1}


def test_a_week_without_an_action_counts_none():
    days = [datetime(2024, 1, 1), datetime(2024, 1, 3), datetime(2024, 1, 16)]
    interactions = pl.LazyFrame({"timestamp": days, "domain": ["a", "b", "a"]})
    found = timeline(interactions, ["a", "b"], days=100)
    assert found.unit == "week"
    assert found.starts == [date(2024, 1, 1), date(2024, 1, 8), date(2024, 1, 15)]
    assert found.counts == {"a": [1, 0, 1], "b": [1, 0, 0]}


def test_the_sizes_are_those_of_the_data(finished):
    interactions, items = finished.lake.read("interactions").to_pylist(), finished.lake.read("items").to_pylist()
    data = report_of(finished).data
    assert (data.total.users, data.total.items, data.total.actions) == (50, len(items), len(interactions))
    for domain in data.domains:
        here = [row for row in interactions if row["domain"] == domain.domain]
        assert (domain.actions, domain.users) == (len(here), len({row["user_id"] for row in here}))
    assert sum(map(sum, data.timeline.counts.values())) == len(interactions)
    assert sum(data.imbalance.before) == sum(data.imbalance.after) == 50


def test_lineage_ends_at_the_hashes_of_the_input_files(finished):
    found = report_of(finished).lineage
    assert (found.lost, found.generator) == ([], "retrieval")
    assert {run.stage for run in found.runs} >= {"ingest", "split", "ground", "assemble", "finetune", "evaluate"}
    files = [finished.folder / name for name in ("interactions.csv", "items.csv")]
    assert sorted(found.stage("ingest").sources.values()) == sorted(
        hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    )


def test_an_input_whose_run_is_no_longer_kept_is_named(place):
    lake = place.lake
    read = lake.path("items")
    replace_items(lake, title="tea")
    lake.remove_version(read)
    assert report_of(place).lineage.lost == ["items"]


def test_metrics_stand_beside_the_run_before_with_the_difference_on_the_same_targets(place):
    assert report_of(place).metrics.others == []
    place.run(only="evaluate", set_=("evaluate.resamples=30",))
    metrics = report_of(place).metrics
    [before] = metrics.others
    assert (before.name, before.generator, before.changed) == ("before", "retrieval", ["evaluate.resamples 20 -> 30"])
    rows = {(row.protocol, row.domain, row.group, row.metric): row.runs[0].users for row in metrics.rows}
    assert {key: each.users for key, each in before.paired.items()} == rows
    assert {(each.value, each.low, each.high) for each in before.paired.values()} == {(0.0, 0.0, 0.0)}
    for row in metrics.rows:
        assert row.runs[0].value == row.runs[1].value


def test_a_difference_is_that_of_the_users_of_the_domain_and_group_whose_target_is_the_same():
    def ranks(**by_user):
        rows = [("full", user, domain, item, rank) for user, (domain, item, rank) in by_user.items()]
        return pl.DataFrame(rows, ["protocol", "user_id", "domain", "item_id", "rank"], orient="row")

    there = ranks(ann=("food", "tea", 20), bob=("food", "rye", 3), cid=("pots", "wok", 1), dan=("pots", "pan", 1))
    here = ranks(ann=("food", "tea", 1), bob=("food", "rye", 3), cid=("pots", "wok", 99), dan=("pots", "lid", 99))
    members = pl.DataFrame(
        {"user_id": ["ann", "bob", "cid", "dan"], "all": [True] * 4, "long": [True, False, True, True]}
    )
    found = paired_by_group(there, here, members)
    hits = {key[1:3]: (each.value, each.users) for key, each in found.items() if key[3] == "HR@10"}
    assert hits == {
        ("over all", "all"): (0.0, 3), ("over all", "long"): (0.0, 2),
        ("food", "all"): (0.5, 2), ("food", "long"): (1.0, 1),
        ("pots", "all"): (-1.0, 1), ("pots", "long"): (-1.0, 1),
    }  # fmt: skip
    assert found["full", "food", "long", "HR@10"] == Paired(1.0, 1.0, 1.0, 1)
    assert found["full", "food", "all", "HR@10"].low < 0.5 < found["full", "food", "all", "HR@10"].high


def test_the_metrics_are_those_of_the_table(finished):
    [row] = report_of(finished).metrics.rows_of("full", "over all", "all")[1:]
    rows = finished.lake.read("metrics").to_pylist()
    [same] = [
        each for each in rows
        if (each["phase"], each["split"], each["protocol"]) == ("finetune", "test", "full")
        and (each["domain"], each["group"], each["metric"]) == (None, "all", "NDCG@10")
    ]  # fmt: skip
    assert row.runs == [Measured(same["value"], same["low"], same["high"], 50)]


@pytest.mark.slow
def test_a_run_without_a_generator_stands_beside_one_with(place):
    place.run(set_=("enrich.generator=none",))
    place.run(set_=("evaluate.resamples=30",))
    place.run()
    metrics = report_of(place).metrics
    assert [(other.name, other.generator) for other in metrics.others] == [("before", "retrieval"), ("none", "none")]
    assert "generator none -> retrieval" in metrics.others[1].changed


def test_twelve_users_are_the_same_each_time_and_half_of_them_got_an_item(finished):
    users = report_of(finished).users
    assert len(users) == 12
    assert [user.user for user in users] == [user.user for user in report_of(finished).users]
    kept = {row["user_id"] for row in finished.lake.read("grounded_items").to_pylist() if row["kept"]}
    assert sum(user.user in kept for user in users) >= 6


def test_a_user_is_shown_from_history_to_recommendations(finished):
    user = next(user for user in report_of(finished).users if user.asked)
    mine = [row for row in finished.lake.read("augmented_sequences").to_pylist() if row["user_id"] == user.user]
    length = len(mine[0]["item_ids"])
    assert user.earlier + len(user.history) == length
    assert [action.is_inserted for action in user.history] == mine[0]["synthetic"][-30:]
    answers = [row for row in finished.lake.read("grounded_items").to_pylist() if row["user_id"] == user.user]
    shown = [answer for asked in user.asked for answer in asked.answers]
    assert [(each.answer, each.reason) for each in shown] == [(row["answer"], row["reason"]) for row in answers]
    ranks = [row for row in finished.lake.read("ranks").to_pylist() if row["user_id"] == user.user]
    test = next(target for target in user.targets if target.split == "test")
    assert test.ranks["full"] == next(
        (row["rank"], row["candidates"])
        for row in ranks
        if (row["phase"], row["split"], row["protocol"]) == ("finetune", "test", "full")
    )
    assert {scope: len(items) for scope, items in user.recommended.items()} == {"food": 10, "kitchen": 10}
    assert [profile.scope for profile in user.profiles] == ["food", "kitchen", "all domains"]


class Speaker(GeneratorWrapper):
    """Says the same to every prompt, as a language model would."""

    identity, fingerprint, tokens, last_words = {"model": "speaker"}, {"llm": {"model": "speaker"}}, BY_CHARACTERS, ""

    def __init__(self):
        self.heard = []

    def __call__(self, requests, on_reply=lambda index, reply: None):
        replies = []
        for index, request in enumerate(requests):
            key = next(iter(request.schema["properties"]))
            said = {"items": ["a red tea pot", "a spoon"]} if key == "items" else {"profile": "likes tea pots"}
            self.heard.append(list(request.messages))
            replies.append(Reply(json.dumps(said), None, 7, 3))
            on_reply(index, replies[-1])
        return replies

    def remember_in(self, cache):
        pass

    def counts(self):
        return {}

    def close(self, patience=0):
        pass


def test_prompts_are_shown_as_they_were_sent(fresh_place, monkeypatch):
    speaker = Speaker()
    monkeypatch.setitem(BACKENDS, "speaker", lambda settings, before_start: speaker)
    overrides = ("enrich.generator=speaker", "llm.max_alike=1.0", "llm.max_useless=1.0", "llm.max_failed=1.0")
    with fresh_place.open(*overrides, to="profile_users") as run:
        for stage in run.selection.apply(run.stages):
            run.lake.run(stage)
    heard, files = len(speaker.heard), sorted(fresh_place.lake.home.rglob("*.parquet"))
    report = report_of(fresh_place, *overrides)
    shown = [each.prompt for user in report.users for each in (*user.asked, *user.profile_prompts) if each.reply]
    assert shown
    assert all(shown)
    assert all(list(prompt) in speaker.heard for prompt in shown)
    assert len(speaker.heard) == heard  # nothing was asked for the report
    assert sorted(fresh_place.lake.home.rglob("*.parquet")) == files  # and nothing written
    assert [stage.stage for stage in report.asking.stages] == [stage for stage in ASKING if stage not in OFF]
    assert report.asking.stages[0].tokens_out == 3 * report.asking.stages[0].rows


def test_a_prompt_made_from_other_settings_is_not_shown_as_the_one_that_was_sent(fresh_place, monkeypatch):
    monkeypatch.setitem(BACKENDS, "speaker", lambda settings, before_start: Speaker())
    overrides = ("enrich.generator=speaker", "llm.max_alike=1.0", "llm.max_useless=1.0", "llm.max_failed=1.0")
    with fresh_place.open(*overrides, to="generate_items") as run:
        for stage in run.selection.apply(run.stages):
            run.lake.run(stage)
    report = report_of(fresh_place, *overrides, "enrich.answers=3")
    assert [each.prompt for user in report.users for each in user.asked if each.prompt] == []


def test_every_text_of_the_page_is_escaped(place):
    replace_items(place.lake, title=SCRIPT, domain="<b>$x$</b>")
    page = render(report_of(place))
    assert "<script" not in page
    assert "<b>$x$</b>" not in page
    assert "&lt;script&gt;document.title" in page


def test_what_turns_or_hides_text_is_written_out(place):
    replace_items(place.lake, title="a\u202eb\x00c \U0001f468\u200d\U0001f373")
    assert "a\\u202eb\\u0000c \U0001f468\u200d\U0001f373" in render(report_of(place))


def test_a_chart_has_no_colour_of_its_own_and_no_formula():
    chart = bars("Sizes", ["$a$", "<b>"], {"now": [1, 2], "then": [3, 4]}, x="size")
    assert re.findall(r"#[0-9a-f]{6}", chart.svg) == []
    assert "var(--series-1)" in chart.svg
    assert ">$a$</text>" in chart.svg
    assert "<b>" not in chart.svg


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_every_part_in_both_modes_and_on_a_phone_without_an_error(place, tmp_path):
    replace_items(place.lake, title=SCRIPT)
    with place.open() as run:
        path = write_report(run, tmp_path / "page.html")
    grounds = []
    with chromium(tmp_path / "profile") as page:
        for width, is_dark in ((1200, False), (1200, True), (390, False), (390, True)):
            page.open(path, width, is_dark)
            assert page.run("[...document.querySelectorAll('section')].map(each => each.id)") == list(SECTIONS)
            assert page.run("[...document.querySelectorAll('section')].every(each => each.innerText.length > 40)")
            assert page.run("document.documentElement.scrollWidth") <= width
            assert (page.run("document.title"), page.run("document.scripts.length")) == ("tiny: report", 0)
            assert SCRIPT in page.run("document.getElementById('users').innerText")
            grounds.append(page.run("getComputedStyle(document.body).backgroundColor"))
        assert page.log == []
    assert grounds[0] == grounds[2] != grounds[1] == grounds[3]
