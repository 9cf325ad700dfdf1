from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from pipeline.config import EnrichConfig, LLMConfig, OpenAIConfig
from pipeline.llm.backends import BACKENDS, open_generator
from pipeline.llm.cooccurrence import Cooccurrence
from pipeline.llm.openai import OpenAI
from pipeline.llm.prompts import load_prompt
from pipeline.llm.retrieval import Retrieval
from pipeline.llm.vllm import VLLM


def test_the_share_that_prompts_may_show_is_still_known_as_evidence():
    with pytest.warns(FutureWarning, match="setting evidence is now called prompt_share"):
        assert EnrichConfig(evidence=0.7) == EnrichConfig(prompt_share=0.7)


def test_without_a_generator_nothing_is_enriched():
    assert [EnrichConfig(generator=name).is_on for name in ("none", *BACKENDS)] == [False, True, True, True, True]


def test_a_generator_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ValidationError, match="should be 'none', 'retrieval', 'cooccurrence', 'vllm' or 'openai'"):
        EnrichConfig(generator="retreival")


def test_the_settings_name_the_generator_that_is_opened():
    opened = []
    for name in BACKENDS:
        settings = SimpleNamespace(
            enrich=EnrichConfig(generator=name, exact_up_to=7),
            llm=LLMConfig(model="edt-tiny", max_model_len=2048),
            openai=OpenAIConfig(base_url="http://one/v1"),
        )
        opened.append(open_generator(name, settings, lambda: None))
    assert [type(generator) for generator in opened] == [Retrieval, Cooccurrence, VLLM, OpenAI]
    assert [generator.asks_model for generator in opened] == [False, False, True, True]
    assert [generator.reads for generator in opened] == [
        ("items", "item_embeddings"),
        ("items", "sequences", "probes"),
        (),
        (),
    ]
    assert opened[0].fingerprint == {"exact_up_to": 7}
    assert [generator.identity["model"] for generator in opened[2:]] == ["edt-tiny"] * 2


@pytest.mark.parametrize(
    ("ask", "name"), [("write", "generate_items"), ("choose", "choose_items"), ("score", "score_items")]
)
def test_each_way_to_ask_has_a_prompt_of_its_own(ask, name):
    assert EnrichConfig(ask=ask).prompt == load_prompt(name)


def test_a_prompt_that_is_given_stands_whatever_the_way_to_ask():
    own = "Pots.\n---\n$titles $candidates"
    assert EnrichConfig(ask="choose", prompt=own).prompt == own


def test_a_prompt_to_choose_by_shows_the_candidates():
    with pytest.raises(ValidationError, match=r"\$candidates belongs into the part below"):
        EnrichConfig(ask="choose", prompt="Pots.\n---\n$titles")


def test_a_chat_endpoint_is_not_asked_to_rate():
    with pytest.raises(ValidationError, match='ask = "score" needs the generator vllm'):
        EnrichConfig(ask="score", generator="openai")
