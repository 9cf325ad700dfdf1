"""The next night: a language model behind a real endpoint is asked about the users that changed, and nobody else."""

import json
import threading
import zlib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import LogSort

from data_lake.errors import UserError
from flows.forecast import CountingGenerator, Forecast, forecast, total
from flows.plan import plan
from flows.stages import SPECS
from pipeline.sample_world.edt_tiny import get_model_path
from pipeline.sample_world.simulate import SimulateConfig

CHANGED = 2
"""Of 200 users: 1 %."""
ASKING = {spec.name: spec.makes[0] for spec in SPECS if spec.asks and spec.enriches}
"""The stages that ask about users, and what each makes."""


class Model(BaseHTTPRequestHandler):
    """Answers each prompt from its own words, turned round, always alike; on a bad night each fifth one empty or cut
    at first, and where it is `dull`, everybody alike."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        schema, prompt = body["response_format"]["json_schema"]["schema"], body["messages"][-1]["content"]
        words = prompt.replace('"', " ").split()
        mark, cut = 0 if self.server.dull else zlib.crc32(prompt.encode()), False
        turned = [f"size {mark % 1000}", *reversed(words[-12:])]
        items = [" ".join(turned[i : i + 2]) for i in (0, 2, 4)]
        if self.server.bad and "Answer briefly" not in prompt and mark % 5 == 0:
            items, turned, cut = [""], [""], mark % 2 == 0
        if self.server.dull:
            items, turned = ["tea", "pan"], ["likes", "tea"]
        value = {"items": items} if "items" in schema["properties"] else {"profile": " ".join(turned)}
        answer = {
            "choices": [{"message": {"content": json.dumps(value)}, "finish_reason": "length" if cut else "stop"}],
            "usage": {"prompt_tokens": len(words), "completion_tokens": 10},
        }
        self.server.prompts.append(json.dumps(body["messages"]))
        refused, key = self.server.refuses(self.server.prompts[-1]), self.headers.get("Authorization")
        text = json.dumps({"error": {"message": f"no such \x1b[2J grammar for {key}"}} if refused else answer).encode()
        self.send_response(self.server.refusal if refused else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def model():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.daemon_threads, server.prompts, server.bad, server.dull = True, [], False, False
    server.refuses = lambda prompt: False
    server.refusal = 400
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def by_endpoint(model):
    url = f"http://127.0.0.1:{model.server_address[1]}/v1"
    return (
        "enrich.generator=openai",
        "llm.model=words",
        f"openai.base_url={url}",
        "enrich.examples=1",
        "enrich.noise_filter=true",
    )


def until(place, last, overrides):
    """Make every stage up to `last`, and return what each asking stage asked and reused."""
    asked = {}
    with place.open(*overrides) as run:
        for stage in run.stages:
            made = run.lake.run(stage)
            if stage.name in ASKING and not made.skipped:
                asked[stage.name] = made.figures
            if stage.name == last:
                return asked
    raise AssertionError(last)


def told(place, overrides, **options):
    with place.open(*overrides, **options) as run:
        return {each.stage: each for each in forecast(run, plan(run))}


def hashes(place):
    """Return who asked what: {artifact: {prompt hash: users}}, of prompts that were asked."""
    found = {}
    for artifact in ASKING.values():
        rows = place.lake.read(artifact).select(["user_id", "prompt_hash"]).to_pylist()
        for row in rows:
            if row["prompt_hash"]:
                found.setdefault(artifact, {}).setdefault(row["prompt_hash"], set()).add(row["user_id"])
    return found


def telling(place):
    """Return two users of whom one action more shows another item to both prompts: few items, all of them different."""
    asked = set(place.lake.read("generated_items")["user_id"].to_pylist())
    titled = {row["item_id"] for row in place.lake.read("items").to_pylist() if row["title"]}
    found = []
    for row in place.lake.read("sequences").to_pylist():
        ids, train = row["item_ids"], len(row["item_ids"]) - 2
        before, after = (min(int(length * 0.8 + 1e-9), length - 1) for length in (train, train + 1))
        different = len(set(ids[: train + 1])) == train + 1 and set(ids) <= titled
        if row["user_id"] in asked and after == before + 1 <= 5 and different and len(set(row["domains"][:after])) == 1:
            found.append(row["user_id"])
    assert len(found) >= CHANGED
    return found[:CHANGED]


def add_actions(place):
    """Give two users one more action each, and return their ids."""
    users, path = telling(place), place.folder / "interactions.csv"
    table = pl.read_csv(path)
    theirs = table.filter(pl.col("user_id").is_in(users)).sort("timestamp")
    latest = pl.lit(table["timestamp"].max()).cast(table["timestamp"].dtype)
    more = theirs.group_by("user_id").first().with_columns(timestamp=latest).select(table.columns)
    pl.concat([table, more]).write_csv(path)
    return set(users)


@pytest.fixture(scope="module")
def nights(new_place, tmp_path_factory, model, by_endpoint):
    """Two nights: what was told and asked in each, and by whom."""
    place = new_place(
        tmp_path_factory.mktemp("nights") / "place", SimulateConfig(users=200, items=600, length=8, missing_titles=0)
    )
    before = told(place, by_endpoint)
    model.bad = True
    first = until(place, "profile_users", by_endpoint)
    model.bad = False
    asked_first, of_first, model.prompts[:] = list(model.prompts), hashes(place), []
    users = add_actions(place)
    until(place, "represent", by_endpoint)
    forecasts = told(place, by_endpoint)
    assert model.prompts == []  # a forecast asks nothing
    second = until(place, "insert", by_endpoint)
    forecasts |= {"profile_domains": told(place, by_endpoint)["profile_domains"]}
    second |= until(place, "profile_users", by_endpoint)
    return {
        "place": place, "users": users, "before": before, "forecasts": forecasts, "first": first, "second": second,
        "hashes": (of_first, hashes(place)), "prompts": (asked_first, list(model.prompts)),
    }  # fmt: skip


def test_before_anything_is_made_the_plan_says_after_which_stage_it_will_know(nights):
    assert {name: each.note for name, each in nights["before"].items()} == {
        "generate_items": "known after a run --to represent",
        "profile_domains": "known after a run --to insert",
        "profile_users": "known after a run --to profile_domains",
    }


def test_the_first_night_asks_about_everybody_once_and_again_where_the_reply_was_bad(nights):
    seen = nights["prompts"][0]
    assert len(seen) == len(set(seen)) == sum(figures["asked"] for figures in nights["first"].values())
    again = sum("Answer briefly" in prompt for prompt in seen)
    assert again > len(seen) / 10
    assert len(seen) - again == sum(len(nights["hashes"][0][artifact]) for artifact in ASKING.values())
    never_asked = {"no_items", "no_profiles"}
    assert all(set(figures["failed"]) <= never_asked for figures in nights["first"].values()), nights["first"]


@pytest.mark.parametrize(("stage", "artifact"), ASKING.items())
def test_the_second_night_asks_about_the_changed_users_only(nights, stage, artifact):
    before, after = (found[artifact] for found in nights["hashes"])
    new = {mark: users for mark, users in after.items() if mark not in before}
    assert set.union(*new.values()) == nights["users"]
    assert nights["second"][stage]["asked"] == len(new) <= 2 * CHANGED
    assert nights["second"][stage]["reused"] >= 0.95 * nights["first"][stage]["asked"]


def test_the_endpoint_has_seen_no_other_prompt(nights):
    assert len(nights["prompts"][1]) == sum(figures["asked"] for figures in nights["second"].values())


@pytest.mark.parametrize("stage", ["generate_items", "profile_domains"])
def test_the_plan_told_exactly_what_was_asked(nights, stage):
    forecast, asked = nights["forecasts"][stage], nights["second"][stage]
    assert (forecast.new, forecast.reused) == (asked["asked"], asked["reused"])
    assert forecast.tokens_out == 10 * asked["asked"]  # every reply took 10
    assert forecast.tokens_in > 0
    assert 0 < forecast.hours < 1  # at the rate of the first night
    assert forecast.note == "tokens in: four characters a token"


def test_hours_are_told_by_the_rate_of_all_runs_and_tokens_by_the_rows_that_were_asked(nights, by_endpoint):
    place = nights["place"]
    forecast = told(place, (*by_endpoint, "profile.words=40"))["profile_domains"]
    runs = [nights[night]["profile_domains"] for night in ("first", "second")]
    rate = sum(run["seconds_asking"] for run in runs) / sum(run["asked"] for run in runs)
    assert forecast.hours == pytest.approx(forecast.new * rate / 3600)
    assert runs[1]["failed"]["no_items"] > 0
    assert forecast.tokens_out == pytest.approx(forecast.new * runs[1]["tokens_out"] / runs[1]["ok"], abs=1)


def test_asking_again_counts_every_prompt_as_new(nights, by_endpoint):
    held, again = (
        told(nights["place"], by_endpoint, rerun=("generate_items",), ask_again=ask_again)["generate_items"]
        for ask_again in (False, True)
    )
    assert (held.new, held.reused) == (0, held.prompts)
    assert again.new == len(nights["hashes"][1]["generated_items"])
    assert again.new + again.reused == again.prompts > held.prompts / 2


def test_the_plan_of_the_command_line_can_count_every_prompt_as_new(nights, by_endpoint):
    options = ["--rerun", "profile_domains", *(word for override in by_endpoint for word in ("--set", override))]
    held, again = (
        {step["stage"]: step["asks"] for step in json.loads(nights["place"].edt("plan", "--json", *more).stdout)}
        for more in (options, [*options, "--ask-again"])
    )
    assert held["profile_domains"]["new"] == 0
    assert again["profile_domains"]["new"] == len(nights["hashes"][1]["domain_profiles"])


def test_the_plan_says_at_which_limit_a_run_would_stop(nights, by_endpoint):
    again = {"rerun": ("generate_items",), "ask_again": True}
    asked = told(nights["place"], by_endpoint, **again)["generate_items"]
    tokens = asked.tokens_in + asked.tokens_out
    for requests, most, stops in (
        (asked.new, tokens, ""),
        (asked.new - 1, 0, f"a run stops before the end, at [llm] max_run_requests = {asked.new - 1}"),
        (0, tokens - 1, f"a run stops before the end, at [llm] max_run_tokens = {tokens - 1}"),
    ):
        limits = (f"llm.max_run_requests={requests}", f"llm.max_run_tokens={most}")
        limited = told(nights["place"], (*by_endpoint, *limits), **again)["generate_items"]
        assert limited == replace(asked, note="; ".join(filter(None, (asked.note, stops))))


def test_the_total_adds_up_what_is_known():
    each = Forecast("generate_items", 10, 4, 6, 100, 40, 0.5), Forecast("profile_domains", 20, 20, 0, 300, 60, None)
    assert total(each) == Forecast("total", 30, 24, 6, 400, 100, None)
    assert total([each[0], Forecast("profile_users", note="later")]) == Forecast(
        "total", 10, 4, 6, 100, 40, 0.5, "of 1 of 2 stages"
    )


def test_tokens_are_counted_by_the_models_own_tokenizer(nights, monkeypatch):
    from transformers import AutoTokenizer

    requests = []
    count = CountingGenerator.__call__

    def hear(self, asked):
        requests.extend(asked)
        return count(self, asked)

    monkeypatch.setattr(CountingGenerator, "__call__", hear)
    by_model = ("enrich.generator=vllm", "llm.model=edt-tiny", "llm.max_model_len=2048")
    forecast = told(nights["place"], by_model)["generate_items"]
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    prompts = {json.dumps(request.messages): list(request.messages) for request in requests}
    lengths = [
        len(tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False))
        for messages in prompts.values()
    ]
    assert (forecast.new, forecast.tokens_in) == (len(prompts), sum(lengths))


def test_the_plan_is_honest_about_what_is_stale_before_a_stage(nights):
    assert nights["forecasts"]["profile_users"].note.startswith("known after")


def test_the_command_line_shows_what_would_be_asked(nights, by_endpoint):
    place = nights["place"]
    options = [word for override in (*by_endpoint, "profile.words=40") for word in ("--set", override)]
    shown = place.edt("plan", *options)
    assert "tokens_in" in shown.stdout, shown.stderr
    steps = {step["stage"]: step for step in json.loads(place.edt("plan", "--json", *options).stdout)}
    assert list(steps["profile_domains"]) == ["stage", "state", "action", "why", "rows", "seconds", "asks"]
    asks = steps["profile_domains"]["asks"]
    assert list(asks) == ["stage", "prompts", "new", "reused", "tokens_in", "tokens_out", "hours", "note"]
    assert asks["new"] + asks["reused"] == asks["prompts"]
    assert asks["new"] > asks["reused"] >= 0  # the same few items make the same prompt
    assert steps["profile_users"]["asks"]["note"] == "known after a run --to profile_domains"
    assert steps["generate_items"]["asks"] is None


def test_no_key_reaches_the_lake(nights, by_endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret-of-mine")
    place = nights["place"]
    until(place, "generate_items", (*by_endpoint, "enrich.answers=4"))
    files = [path for path in place.lake.home.parent.rglob("*") if path.is_file()]
    assert not [path for path in files if b"s3cret-of-mine" in path.read_bytes()]
    assert place.lake.manifest("generated_items").settings["llm"]["model"] == "words"
    assert "127.0.0.1" not in json.dumps(place.lake.manifest("generated_items").settings)


def test_no_key_reaches_what_a_run_says_or_logs_even_where_the_endpoint_repeats_it(
    place, model, by_endpoint, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret-of-mine")
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "DEBUG")
    monkeypatch.setattr(model, "refuses", lambda prompt: True)
    options = [word for override in by_endpoint for word in ("--set", override)]
    done = place.edt("run", "--only", "generate_items", *options)
    assert done.returncode == 1
    assert "grammar for Bearer [key]" in done.stderr
    with get_client(sync_client=True) as client:
        logged = "\n".join(log.message for log in client.read_logs(sort=LogSort.TIMESTAMP_DESC))
    assert "grammar for Bearer [key]" in logged
    assert "s3cret-of-mine" not in done.stdout + done.stderr + logged


def test_a_stage_of_which_too_many_replies_fail_stops_and_the_next_run_asks_for_those_only(
    place, model, by_endpoint, monkeypatch
):
    choice = {"only": "generate_items", "set_": by_endpoint}
    monkeypatch.setattr(model, "refuses", lambda prompt: len(prompt) % 2 == 0)
    model.prompts.clear()
    before = place.contents()
    with pytest.raises(UserError, match=r"generate_items: \d+ of \d+ asked rows failed \(http_400: \d+\)"):
        place.run(**choice)
    refused = {prompt for prompt in model.prompts if len(prompt) % 2 == 0}
    good = set(model.prompts) - refused
    assert refused
    assert good
    assert place.contents() == before  # nothing of it is published
    monkeypatch.setattr(model, "refuses", lambda prompt: False)
    model.prompts.clear()
    assert place.run(**choice) == ["generate_items"]
    assert refused <= set(model.prompts)
    assert not good & set(model.prompts)
    assert set(place.lake.read("generated_items")["status"].to_pylist()) == {"ok"}


def test_with_more_failures_allowed_the_stage_is_made_and_keeps_their_rows(place, model, by_endpoint, monkeypatch):
    monkeypatch.setattr(model, "refuses", lambda prompt: len(prompt) % 2 == 0)
    place.run(only="generate_items", set_=(*by_endpoint, "llm.max_failed=1.0"))
    assert set(place.lake.read("generated_items")["reason"].to_pylist()) == {None, "http_400"}


def test_questions_that_a_busy_endpoint_did_not_answer_are_asked_again_by_the_next_run(
    place, model, by_endpoint, monkeypatch
):
    choice = {"to": "generate_items", "set_": (*by_endpoint, "llm.max_failed=1.0", "openai.retries=0")}
    monkeypatch.setattr(model, "refusal", 503)
    monkeypatch.setattr(model, "refuses", lambda prompt: len(prompt) % 2 == 0)
    model.prompts.clear()
    assert place.run(**choice) == ["generate_items"]
    busy = {prompt for prompt in model.prompts if len(prompt) % 2 == 0}
    rows = place.lake.read("generated_items")["reason"].to_pylist().count("http_503")
    with place.open(*choice["set_"], to="generate_items") as run:
        [step] = [step for step in plan(run) if step.action == "run"]
        assert (step.stage, step.state) == ("generate_items", "fresh")
        assert step.why == f"questions that got no answer are asked again (http_503 {rows})"
    monkeypatch.setattr(model, "refuses", lambda prompt: False)
    model.prompts.clear()
    assert place.run(**choice) == ["generate_items"]
    assert set(model.prompts) == busy
    assert set(place.lake.read("generated_items")["status"].to_pylist()) == {"ok"}
    assert place.run(**choice) == []


def test_a_model_that_says_the_same_about_everybody_ends_the_stage(place, model, by_endpoint, monkeypatch):
    monkeypatch.setattr(model, "dull", True)
    model.prompts.clear()
    before, choice = place.contents(), {"only": "generate_items"}
    told = r"generate_items: 100% of what was answered says nothing \(answers dropped: same: \d+\), more than \[llm\]"
    with pytest.raises(UserError, match=told):
        place.run(**choice, set_=by_endpoint)
    assert place.contents() == before
    asked = set(model.prompts)
    model.prompts.clear()
    place.run(**choice, set_=(*by_endpoint, "llm.max_useless=1.0", "llm.max_alike=1.0"))
    assert not asked & set(model.prompts)  # replies are kept
    made = place.lake.read("generated_items")
    assert set(made["reason"].to_pylist()) == {"same"}
    figures = place.lake.manifest("generated_items").figures
    rows = made.num_rows
    assert (figures["ok"], figures["failed"]) == (0, {"same": rows})
    assert (figures["answers"], figures["dropped"], figures["distinct_answers"]) == (0, {"same": 2 * rows}, 2)
    assert figures["alike"] == 1


@pytest.mark.parametrize("stage", ["profile_domains", "profile_users"])
def test_profiles_that_are_the_same_for_everybody_end_their_stage(place, model, by_endpoint, monkeypatch, stage):
    monkeypatch.setattr(model, "dull", True)
    before = place.contents()
    told = rf"{stage}: 100% of what was answered says nothing \(answers dropped: same: \d+\), more than \[llm\]"
    with pytest.raises(UserError, match=told):
        place.run(only=stage, set_=by_endpoint)
    assert place.contents() == before


def test_a_stage_of_which_many_answers_are_alike_warns(place, model, by_endpoint, monkeypatch, capfd):
    monkeypatch.setattr(model, "dull", True)
    limits = ("llm.max_useless=1.0", "llm.max_alike=1.0", "enrich.rows_per_shard=3")
    place.run(only="generate_items", set_=(*by_endpoint, *limits))
    assert "generate_items: warning: 100% of what was answered says nothing" in capfd.readouterr().err


def test_a_run_that_may_ask_no_more_stops_and_the_next_goes_on_where_it_was(place, model, by_endpoint):
    choice, limit = {"only": "generate_items"}, (*by_endpoint, "llm.max_run_requests=25")
    model.prompts.clear()
    with pytest.raises(UserError, match=r"\[llm\] max_run_requests = 25: all of them are sent"):
        place.run(**choice, set_=limit)
    assert len(model.prompts) == 25
    place.run(**choice, set_=(*by_endpoint, "llm.max_run_requests=1000"))
    assert len(model.prompts) == len(set(model.prompts)) > 25


def test_pairs_whose_answers_did_not_pay_are_not_asked_the_next_night_unless_they_are_named(
    new_place, by_endpoint, tmp_path, capfd
):
    place = new_place(tmp_path / "place", SimulateConfig(users=200, items=600, length=12, missing_titles=0))
    settings = (*by_endpoint, "enrich.probes=200", "enrich.rows_per_shard=500")
    assert until(place, "ground", settings)["generate_items"]["asked"] > 0
    assert "the answers from food to kitchen do not pay" in capfd.readouterr().err
    before = place.lake.read("generated_items")
    assert set(before["to_domain"].to_pylist()) == {"food", "kitchen"}
    others, rerun = before["to_domain"].to_pylist().count("food"), {"rerun": ("generate_items",)}
    assert told(place, settings, **rerun)["generate_items"].prompts == others
    assert "food to kitchen is not asked, for its answers did not pay" in capfd.readouterr().err
    named = (*settings, 'enrich.pairs=[["food", "kitchen"]]')
    assert told(place, named, **rerun)["generate_items"].prompts == before.num_rows - others
    with place.open(*settings) as run:
        for stage in run.stages:
            if stage.name in ("generate_items", "ground", "measure_answers", "insert"):
                run.lake.run(stage, rebuild=True)
    assert set(place.lake.read("generated_items")["to_domain"].to_pylist()) == {"food"}
