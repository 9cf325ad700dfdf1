import shutil

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")


@pytest.fixture
def by_vllm(tiny_llm):
    """Settings for a language model of random weights: it keeps to the schema and says nothing."""
    model = ("enrich.generator=vllm", f"llm.model={tiny_llm}", "llm.max_model_len=4000")
    limits = tuple(f"llm.{name}=1.0" for name in ("max_failed", "max_useless", "max_alike"))
    return (*model, *limits, "enrich.answers=2", "profile.words=20", "profile.user_words=20")


def replies(place):
    rows = place.lake.read("generated_items").to_pylist()
    return {(row["user_id"], row["to_domain"]): row["reply"] for row in rows}


@pytest.mark.slow
def test_a_run_with_a_language_model_keeps_every_reply_and_asks_for_it_once(place, by_vllm):
    generating = ("generate_items", "profile_domains", "profile_users")
    assert set(generating) < set(place.run(set_=by_vllm))
    first, said = place.lake.manifest("generated_items").figures, replies(place)
    assert first["tokens_in"] > 0
    assert any(said.values())
    rows = place.lake.read("generated_items").to_pylist()
    assert {row["status"] for row in rows} == {"failed"}  # it says nothing
    assert all(row["reason"] for row in rows)

    shutil.rmtree(place.lake.home / "generated_items")
    assert place.run(set_=by_vllm, only="generate_items") == ["generate_items"]
    assert place.lake.manifest("generated_items").figures["asked"] == 0
    assert replies(place) == said

    shutil.rmtree(place.lake.home / "generated_items")
    assert place.run(set_=by_vllm, only="generate_items", ask_again=True) == ["generate_items"]
    assert place.lake.manifest("generated_items").figures["asked"] >= len({row["prompt_hash"] for row in rows})


def test_items_are_described_by_vllm_and_asked_about_once(place, by_vllm):
    settings = ("describe.generator=vllm", *by_vllm[1:], "describe.attributes=2", "describe.goes_with=1")
    assert place.run(set_=settings, to="embed_items") == ["describe_items", "embed_items"]
    first = place.lake.read("item_descriptions")
    figures = place.lake.manifest("item_descriptions").figures
    assert (figures["asked"] > 0, figures["tokens_in"] > 0) == (True, True)
    assert set(first["reason"].to_pylist()) <= {None, "no_title", "empty", "repeated", "same"}  # all are of the schema
    ok = [row for row in first.to_pylist() if row["status"] == "ok"]
    assert all(1 <= len(row["attributes"]) <= 2 and len(row["goes_with"]) == 1 for row in ok)

    shutil.rmtree(place.lake.home / "item_descriptions")
    assert place.run(set_=settings, only="describe_items") == ["describe_items"]
    assert place.lake.manifest("item_descriptions").figures["asked"] == 0
    assert place.lake.read("item_descriptions").equals(first)
