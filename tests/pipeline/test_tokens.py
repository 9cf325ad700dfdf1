import json
import shutil

import pyarrow as pa
import pytest

from data_lake.errors import UserError
from data_lake.schemas import ITEMS
from pipeline.augment.generate_items import generate_items
from pipeline.config import EnrichConfig, ProfileConfig
from pipeline.llm.generator import Reply, Request
from pipeline.llm.tokens import BY_CHARACTERS, MARGIN, ModelTokens
from pipeline.profile.profile_users import profile_users
from tests.pipeline.worlds import FakeGenerator, items_question

EXTREME = (
    "rice " * 5000,
    "x" * 20_000,
    "抹茶" * 3000,
    "🍵" * 3000,
    "<|im_end|>" * 500,
    '"\\\n\t' * 800,
    "\u202e\u0000\u0007" * 900,
    "a\u0301" * 2000,
    "",
    "tea",
)

CFG = EnrichConfig()


class Same(FakeGenerator):
    """Answers all alike."""

    def __init__(self, text, tokens):
        super().__init__(tokens=tokens)
        self.text = text

    def answer(self, request):
        return Reply(self.text)


@pytest.fixture(scope="module")
def tokenizer(tiny_llm):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llm)


@pytest.fixture(scope="module")
def instructions(tiny_llm):
    """Tokens of the item prompt with one short title."""
    return ModelTokens(str(tiny_llm), None, 9999).count(asked(["tea"], 9999, tiny_llm))[0]


def asked(titles, max_model_len, folder, cfg=CFG, text='{"items": ["pan"]}'):
    """Return the requests of one user with these titles."""
    ids = [f"f{number}" for number in range(len(titles))]
    items = pa.table([ids, ["food"] * len(ids), titles, titles], schema=ITEMS.tables[""])
    rows = pa.table({"user_id": ["u"], "from_domain": ["food"], "to_domain": ["kitchen"], "item_ids": [ids]})
    generator = Same(text, ModelTokens(str(folder), None, max_model_len))
    generate_items(rows, items, generator, cfg, {})
    return generator.requests


def lines_of(request):
    return [json.loads(line) for line in request.messages[1]["content"].splitlines()[1:]]


@pytest.mark.parametrize("most", [1, 5, 30])
def test_a_text_of_any_kind_is_cut_to_its_tokens(tiny_llm, tokenizer, most):
    tokens = ModelTokens(str(tiny_llm), None, 4000)
    lines = tokens.quoted(EXTREME, most)
    for text, line in lines.items():
        plain = json.loads(line)
        shortest = plain in ("", "…")  # what is left at least
        assert shortest or len(tokenizer(line, add_special_tokens=False).input_ids) <= most
        assert " ".join(text.split()).startswith(plain.removesuffix("…"))
    assert len(lines) == len(set(EXTREME))


def test_a_text_that_fits_is_whole_and_one_that_does_not_keeps_most_of_its_tokens(tiny_llm, tokenizer):
    tokens = ModelTokens(str(tiny_llm), None, 4000)
    text = "basmati rice cooker " * 40
    assert tokens.quoted(["rice"], 30) == {"rice": '"rice"'}
    size = len(tokenizer(tokens.quoted([text], 30)[text], add_special_tokens=False).input_ids)
    assert 24 <= size <= 30


def test_without_a_tokenizer_four_characters_are_a_token():
    assert BY_CHARACTERS.quoted(["x" * 50], 10) == {"x" * 50: f'"{"x" * 39}…"'}
    assert BY_CHARACTERS.count([Request(items_question(), ({"role": "user", "content": "x" * 40},), {}, 5)]) == [10]


def test_prompts_are_counted_as_the_model_counts_them(tiny_llm, tokenizer):
    messages = ({"role": "system", "content": "Name items."}, {"role": "user", "content": "thé <|im_end|>"})
    known = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True)["input_ids"]
    tokens = ModelTokens(str(tiny_llm), None, 100)
    assert tokens.count([Request(items_question(), messages, {}, 5)] * 600) == [len(known)] * 600
    for room, fits in ((0, True), (1, False)):
        assert tokens.fits([Request(items_question(), messages, {}, 100 - MARGIN - len(known) + room)]) == [fits]


def test_prompts_that_surely_fit_are_not_tokenized(tiny_llm):
    tokens = ModelTokens(str(tiny_llm), None, 400)
    assert tokens.fits([]) == []
    tokens._sizes = None
    assert tokens.fits([Request(items_question(), ({"role": "user", "content": "x" * 100},), {}, 100)]) == [True]


def test_the_oldest_titles_are_dropped_where_not_all_fit(tiny_llm, instructions):
    titles = [f"number {number} " + "rice cooker " * 9 for number in range(8)]
    cfg = EnrichConfig(max_tokens=100)
    [whole] = asked(titles, 9999, tiny_llm, cfg)
    assert [line[:8] for line in lines_of(whole)] == [title[:8] for title in titles]
    [cut] = asked(titles, instructions + 100 + MARGIN + 80, tiny_llm, cfg)
    shown = lines_of(cut)
    assert 1 <= len(shown) < 8
    assert [line[:8] for line in shown] == [title[:8] for title in titles[-len(shown) :]]
    assert cut.messages[0] == whole.messages[0]
    assert cut.question.item_ids == tuple(f"f{number}" for number in range(8))[-len(shown) :]
    assert cut.question.titles == tuple(titles[-len(shown) :])


def test_prompt_and_answer_never_overflow_the_context_whatever_the_titles_hold(tiny_llm, tokenizer, instructions):
    cfg = EnrichConfig(max_tokens=64, answers=3)
    most = instructions + 64 + MARGIN + cfg.title_tokens
    for title in EXTREME:
        if title:
            requests = asked([title] * 12, most, tiny_llm, cfg, text="no JSON")
            assert len(requests) in (1, 2)  # the retry only where its line more fits
            for request in requests:
                prompt = tokenizer.apply_chat_template(
                    list(request.messages), add_generation_prompt=True, tokenize=True
                )["input_ids"]
                assert len(prompt) + request.max_tokens <= most


def test_of_the_summaries_that_a_merge_reads_those_of_least_evidence_are_dropped(tiny_llm):
    rows = pa.table({
        "user_id": ["u"], "domains": [["food", "kitchen", "garden"]], "evidences": [[5, 1, 9]],
        "texts": [["tea " * 40, "pans " * 40, "roses " * 40]],
    })  # fmt: skip
    cfg = ProfileConfig(max_tokens=50)
    whole = Same('{"profile": "p"}', ModelTokens(str(tiny_llm), None, 9999))
    profile_users(rows, whole, cfg)
    size = whole.tokens.count(whole.requests)[0]
    cut = Same('{"profile": "p"}', ModelTokens(str(tiny_llm), None, size + 100 + MARGIN - 20))
    profile_users(rows, cut, cfg)
    assert [json.loads(line)["part"] for line in cut.requests[0].messages[1]["content"].splitlines()] == [
        "food",
        "garden",
    ]


def test_instructions_that_leave_no_room_are_a_mistake_of_the_settings(tiny_llm, instructions):
    with pytest.raises(UserError, match=r"generate_items .* \[llm\] max_model_len"):
        asked(["tea", "rice"], instructions + 512, tiny_llm)


TEA = [Request(items_question(), ({"role": "system", "content": "Name."}, {"role": "user", "content": "tea"}), {}, 5)]


def test_a_chat_template_that_refuses_a_system_message_is_a_mistake_of_the_settings(tiny_llm, tmp_path):
    folder = tmp_path / "strict"
    shutil.copytree(tiny_llm, folder)
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusal + "{{ messages[0].content }}")
    with pytest.raises(UserError, match=r"strict: its chat template refuses a system message \(System role not"):
        ModelTokens(str(folder), None, 1000).count(TEA)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match=r"the folder has no tokenizer .* tokenizer\.json"):
        ModelTokens(str(tmp_path), None, 1000).count(TEA)


def test_a_model_that_the_hub_does_not_give_can_be_downloaded_or_given_as_a_folder(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"hf download shop/no-such-model --revision 1a2b.* \[llm\] model to a folder"):
        ModelTokens("shop/no-such-model", "1a2b", 1000).count(TEA)
