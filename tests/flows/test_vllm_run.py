import shutil

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed")


@pytest.fixture
def by_vllm(tiny_llm):
    """Settings for a language model of random weights: it keeps to the schema and says nothing."""
    model = ("enrich.generator=vllm", f"llm.model={tiny_llm}", "llm.max_model_len=4000")
    return (*model, "llm.max_failed=1.0", "enrich.answers=2", "profile.words=20", "profile.user_words=20")


def answers(rows):
    return {(row["user_id"], row["to_domain"]): row["answers"] for row in rows if row["status"] == "ok"}


def test_a_run_with_a_language_model_keeps_every_reply_and_asks_for_it_once(place, by_vllm):
    generating = ("generate_items", "profile_domains", "profile_users")
    assert set(generating) < set(place.run(set_=by_vllm))
    first = place.lake.manifest("generated_items").figures
    rows = place.lake.read("generated_items").to_pylist()
    usable = [row for row in rows if row["status"] == "ok"]
    assert usable
    assert first["tokens_in"] > 0
    assert all(row["reason"] for row in rows if row["status"] == "failed")
    assert all(len(row["answers"]) in (1, 2) for row in usable)

    shutil.rmtree(place.lake.home / "generated_items")
    assert place.run(set_=by_vllm, only="generate_items") == ["generate_items"]
    again = place.lake.manifest("generated_items").figures
    assert again["reused"] >= len(usable)
    assert answers(place.lake.read("generated_items").to_pylist()) == answers(rows)

    shutil.rmtree(place.lake.home / "generated_items")
    assert place.run(set_=by_vllm, only="generate_items", ask_again=True) == ["generate_items"]
    assert place.lake.manifest("generated_items").figures["asked"] >= len(rows)
