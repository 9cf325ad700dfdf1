import pytest

from pipeline.llm.generator import Request, UserProfileQuestion, prompt_hash, prompt_hash_with_room
from tests.pipeline.worlds import items_question

IDENTITY = {"model": "m", "revision": "r", "sampling": {"temperature": 0.0}}


def request(content="rice", words=3, max_tokens=10, question=None):
    schema = {"type": "string", "maxLength": words}
    return Request(question or items_question(), ({"role": "user", "content": content},), schema, max_tokens)


def test_the_hash_of_a_prompt_does_not_depend_on_key_order_or_on_what_the_model_never_sees():
    turned = dict(reversed(IDENTITY.items()))
    for question in (items_question(user_id="u1"), UserProfileQuestion(())):
        assert prompt_hash(request(), IDENTITY) == prompt_hash(request(question=question, max_tokens=11), turned)


@pytest.mark.parametrize(
    ("other", "identity"),
    [
        (request(content="tea"), IDENTITY),
        (request(words=4), IDENTITY),
        (request(), {**IDENTITY, "revision": "s"}),
        (request(), {**IDENTITY, "sampling": {"temperature": 0.7}}),
    ],
)
def test_whatever_can_change_the_answer_changes_the_hash(other, identity):
    assert prompt_hash(other, identity) != prompt_hash(request(), IDENTITY)


def test_the_hash_of_a_prompt_stays_the_same_from_version_to_version():
    known = "e5b6056d4287df981db1c92957a695ffcc0ce3d0549f7dedcab889753d2ab1a7"
    assert prompt_hash(request("thé"), {"model": "m"}) == known
    known_before = "f13ad8072381c7f5926964e6a69af139d1edab6dccc5bf992d4af9411d2ff1d8"
    assert prompt_hash_with_room(request("thé"), {"model": "m"}) == known_before
