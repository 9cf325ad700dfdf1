"""`edt ask`: the questions about a user, and what becomes of the replies."""

import json

import pytest

from data_lake.errors import UserError
from flows.ask import ask, told
from flows.dry_run import DryRunIO, KeptReplies
from pipeline.llm.generator import Reply
from tests.flows.conftest import Place
from tests.pipeline.stub_endpoint import StubEndpoint, completion
from tests.pipeline.stub_endpoint import ask as requests


class Always(dict):
    """What an endpoint says to every prompt."""

    def __init__(self, titles: list[str]) -> None:
        super().__init__()
        self.said = (200, {}, completion(json.dumps({"items": titles})))

    def get(self, *_):
        return self.said


def asking(endpoint: StubEndpoint) -> tuple[str, ...]:
    return ("enrich.generator=openai", "llm.model=m", f"openai.base_url={endpoint.url}")


def user_and_titles(place: Place) -> tuple[str, list[str]]:
    """Return a user with representatives in food, and titles of kitchen."""
    rows = place.lake.read("representatives").to_pylist()
    user = next(row["user_id"] for row in rows if row["domain"] == "food" and len(row["item_ids"]) > 2)
    items = place.lake.read("items").to_pylist()
    return user, [item["title"] for item in items if item["domain"] == "kitchen"][:3]


def test_what_stands_in_the_place_of_an_artifact_is_its_only_part(place: Place) -> None:
    instead = place.lake.read("generated_items").slice(0, 1)
    io = DryRunIO(place.lake.store, "ground", ("generated_items",), (), None, {"generated_items": instead})
    assert list(io.read_parts("generated_items", columns=["user_id"])) == [instead.select(["user_id"])]


def test_dry_shows_each_prompt_with_its_tokens_and_asks_nothing(place: Place) -> None:
    user, _ = user_and_titles(place)
    with StubEndpoint() as endpoint, place.open(*asking(endpoint)) as run:
        questions = ask(run, user, is_dry=True)
        assert endpoint.asked == []
    first = next(each for each in questions if each.about == "food to kitchen")
    assert (first.stage, first.reply, first.reason) == ("generate_items", None, "not_asked")
    assert first.tokens > 0
    assert first.messages[-1]["content"] in told(questions)


def test_each_answer_is_shown_with_what_it_was_taken_for_and_whether_it_is_kept(place: Place) -> None:
    user, titles = user_and_titles(place)
    with StubEndpoint() as endpoint, place.open(*asking(endpoint)) as run:
        endpoint.script = Always(titles)
        questions = ask(run, user, is_dry=False)
    first = next(each for each in questions if each.about == "food to kitchen")
    assert [row["answer"] for row in first.grounded] == titles
    assert [row["title"] for row in first.grounded] == titles
    assert all(row["kept"] or row["reason"] for row in first.grounded)
    assert all(row["faithfulness"] == pytest.approx(1, abs=1e-3) for row in first.grounded)


def test_what_was_asked_once_is_not_asked_again(place: Place) -> None:
    user, titles = user_and_titles(place)
    with StubEndpoint() as endpoint, place.open(*asking(endpoint)) as run:
        endpoint.script = Always(titles)
        first = ask(run, user, is_dry=False)
        asked = list(endpoint.asked)
        assert ask(run, user, is_dry=True)[0] == first[0]
        ask(run, user, is_dry=False)
        of_items = [each.messages[-1]["content"] for each in first if each.stage == "generate_items"]
        assert [prompt for prompt in endpoint.asked[len(asked) :] if prompt in of_items] == []


def test_a_user_whom_nothing_is_asked_about_is_named(place: Place) -> None:
    nothing = pytest.raises(UserError, match="Nothing is asked about user 'nobody'")
    with StubEndpoint() as endpoint, place.open(*asking(endpoint)) as run, nothing:
        ask(run, "nobody", is_dry=True)


def test_a_generator_without_a_model_is_named(place: Place) -> None:
    with place.open() as run, pytest.raises(UserError, match='generator = "retrieval" asks no language model'):
        ask(run, "anybody", is_dry=True)


def test_a_question_that_stands_twice_gets_a_reply_each_time(place: Place) -> None:
    with StubEndpoint() as endpoint, place.open(*asking(endpoint)) as run:
        kept = KeptReplies(run.models.generator, run.lake.keyed_cache("replies"))
        [request] = requests("Name a pan")
        assert kept([request, request]) == [Reply(None, "not_asked")] * 2
