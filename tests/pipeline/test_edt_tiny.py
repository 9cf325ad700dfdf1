"""edt-tiny is small, reads any text, is taught by the simulator's law alone, and answers by it through real vLLM."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open

from pipeline.augment.generate_items import generate_items
from pipeline.config import EnrichConfig, LLMConfig, ProfileConfig
from pipeline.llm.reading import read_reply
from pipeline.llm.vllm import VLLM
from pipeline.model_identity import identify
from pipeline.profile.profile_domains import profile_domains, profile_rows
from pipeline.profile.profile_users import profile_users
from pipeline.sample_world import simulate
from pipeline.sample_world.edt_tiny import DOMAINS, POSITIONS, get_model_path
from pipeline.sample_world.edt_tiny.lessons import Kind, Profile, Shopper, lessons, suggestions
from pipeline.sample_world.words import STYLES, TASTES, taste_of

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
CLASSIC = 0


def test_the_folder_is_below_five_megabytes_and_the_model_below_two_million_parameters():
    folder = get_model_path()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    with safe_open(folder / "model.safetensors", "np") as weights:
        sizes = [int(np.prod(weights.get_slice(name).get_shape())) for name in weights.keys()]  # noqa: SIM118
    assert 500_000 < sum(sizes) < 2_000_000


def test_the_settings_know_it_by_its_name():
    found = identify("edt-tiny", None, "llm")
    assert (found.name, found.source, found.is_folder) == ("edt-tiny", str(get_model_path()), True)


@pytest.mark.parametrize("text", ["Mabel's Organic Green Tea, 6 oz", '{"items":["a","b"]}', "Crème brûlée 茶 🍵\n"])
def test_any_text_comes_back_from_the_tokenizer_as_it_was(text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) == 2048


def test_lessons_are_made_without_a_simulated_user(monkeypatch):
    def never(*_):
        raise AssertionError("a lesson looked at a simulated world")

    for name in ("simulate", "_draw_users", "_walk", "_actions_table", "_item_tables"):
        monkeypatch.setattr(simulate, name, never)
    rng = np.random.default_rng(0)
    assert [len(lessons(4, rng)) for _ in range(30)] == [4] * 30


def test_lessons_of_a_batch_share_their_instructions_and_every_reply_is_usable():
    rng = np.random.default_rng(1)
    tasks = set()
    for _ in range(30):
        batch = lessons(4, rng)
        assert len({lesson.request.messages[0]["content"] for lesson in batch}) == 1
        for lesson in batch:
            tasks.add(lesson.request.question.task)
            read_reply(lesson.reply, replace(lesson.request, is_retry=False))  # what a first reply must be, too
            assert lesson.reply == json.dumps(json.loads(lesson.reply), ensure_ascii=False, separators=(",", ":"))
    assert tasks == {"generate_items", "profile_domain", "profile_user"}


def test_the_right_answer_follows_the_shopper_s_tastes_and_passes_over_noise():
    coffee, tea, baby = (TASTES.index(name) for name in ("coffee", "tea", "baby"))
    shopper = Shopper([coffee, tea], np.array([0.5, 0.5]), CLASSIC, {coffee: 0, tea: 0})
    shown = [Kind("food", taste, recipe, CLASSIC, 0) for taste, recipe in ((coffee, 0), (baby, 3), (tea, 5), (tea, 1))]
    texts = suggestions(shopper, shown, "kitchen", 6, np.random.default_rng(0))
    assert [taste_of("kitchen", text) for text in texts] == ["tea"] * 4 + ["coffee"] * 2
    assert "Tea Strainer" in texts[0]  # the recipe after the latest shown
    assert "Burr Coffee Grinder" in texts[4]


def trained(out, seed):
    """Train for two steps, and return the files that were written."""
    from pipeline.sample_world.edt_tiny.train import train

    train(out, steps=2, batch=2, rate=3e-3, seed=seed, tokenizer_batches=10)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.slow
def test_training_with_one_seed_writes_the_same_model_and_with_another_seed_another(tmp_path):
    first, again, other = (trained(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first.keys() == {path.name for path in get_model_path().iterdir()}
    assert again == first
    assert other["config.json"] == first["config.json"]
    assert other["model.safetensors"] != first["model.safetensors"]


def test_training_that_is_interrupted_while_it_writes_leaves_the_old_model_as_it_was(tmp_path, monkeypatch):
    from pipeline.sample_world.edt_tiny import train as training

    def interrupted(model, tokenizer, folder):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save", interrupted)
    (tmp_path / "config.json").write_text("the old one")
    with pytest.raises(KeyboardInterrupt):
        training.train(tmp_path, steps=1, batch=2, rate=3e-3, seed=0, tokenizer_batches=2)
    assert (tmp_path / "config.json").read_text() == "the old one"


def a_user_per_taste(domain, style=CLASSIC):
    """Four titles of a taste for a user of that name, and items with these titles."""
    kinds = {name: [Kind(domain, TASTES.index(name), recipe, style, 5) for recipe in (0, 2, 3, 5)] for name in TASTES}
    ids = {name: [f"{name}-{place}" for place in range(len(some))] for name, some in kinds.items()}
    titles = [kind.title for some in kinds.values() for kind in some]
    items = pa.table({"item_id": [one for some in ids.values() for one in some], "title": titles, "text": titles})
    return items, ids


@pytest.fixture(scope="module")
def edt_tiny():
    generator = VLLM(LLMConfig(model="edt-tiny", max_model_len=POSITIONS))
    yield generator
    generator.close()


@needs_vllm
@pytest.mark.parametrize(("source", "target"), [DOMAINS, DOMAINS[::-1]])
def test_titles_of_one_domain_are_answered_by_titles_of_the_other_that_fit_the_taste(edt_tiny, source, target):
    items, ids = a_user_per_taste(source)
    rows = pa.table(
        {
            "user_id": list(ids),
            "from_domain": [source] * len(ids),
            "to_domain": [target] * len(ids),
            "item_ids": list(ids.values()),
        }
    )
    made = generate_items(rows, items, edt_tiny, EnrichConfig(), {}).to_pylist()
    assert [row["status"] for row in made] == ["ok"] * len(TASTES)
    right = {row["user_id"]: [taste_of(target, text) for text in row["answers"]].count(row["user_id"]) for row in made}
    assert right["coffee"] >= 6  # of ten; by chance it would be half of one
    assert sum(count >= 6 for count in right.values()) >= 16  # of the twenty tastes


@needs_vllm
def test_a_profile_names_the_taste_and_says_when_it_is_inferred(edt_tiny):
    items, ids = a_user_per_taste("kitchen")
    users = ("tea", "baking", "grill", "soup")
    augmented = pa.table(
        {
            "user_id": users,
            "item_ids": [ids[user] for user in users],
            "domains": [["kitchen"] * 4] * 4,
            "timestamps": [[1, 2, 3, 4]] * 4,
            "splits": pa.array([["train"] * 4] * 4),
            "synthetic": [[False] * 4] * 3 + [[True] * 4],
        }
    )
    clusters = pa.table({"item_id": items["item_id"], "cluster": pa.array([0] * len(items), pa.int32())})
    listed = profile_rows(augmented, clusters, ProfileConfig().last_items, ["kitchen"])
    made = profile_domains(listed, items, edt_tiny, ProfileConfig(), {}).to_pylist()
    assert [row["status"] for row in made] == ["ok"] * 4
    assert sum(user in row["text"] for user, row in zip(users, made, strict=True)) >= 3
    assert [row["text"].startswith("Inferred") for row in made] == [False, False, False, True]


@needs_vllm
def test_a_merged_profile_names_the_tastes_and_the_style_of_its_parts_no_other_and_both_domains(edt_tiny):
    style = 1
    users = [(taste, (taste + 7) % len(TASTES)) for taste in range(len(TASTES))]

    def part(domain, tastes):
        return Profile(
            list(tastes), style, {domain: [Kind(domain, taste, 2, style, 0).product for taste in tastes]}
        ).text

    rows = pa.table(
        {
            "user_id": TASTES,
            "domains": [list(DOMAINS)] * len(users),
            "texts": [[part(domain, tastes) for domain in DOMAINS] for tastes in users],
            "evidences": [[20, 4]] * len(users),
        }
    )
    made = profile_users(rows, edt_tiny, ProfileConfig()).to_pylist()
    assert [row["status"] for row in made] == ["ok"] * len(users)
    interests, others = zip(*(row["text"].split(", mostly of the ") for row in made), strict=True)
    named = [{taste for taste in TASTES if taste in text} for text in interests]
    assert sum(said == {TASTES[taste] for taste in own} for said, own in zip(named, users, strict=True)) >= 16
    assert sum(text.startswith(f"{tuple(STYLES)[style]} kind. In ") for text in others) >= 16
    assert sum(all(f"In {domain}: " in text for domain in DOMAINS) for text in others) >= 16
