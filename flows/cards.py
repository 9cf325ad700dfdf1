"""The cards of an export: what the model is, what it was trained and measured on, told by the manifests."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data_lake.lake import Lake, Manifest
from flows.settings import Settings
from pipeline.llm.backends import NONE
from pipeline.model_identity import licence

CARD_METRICS = ("HR@10", "NDCG@10", "MRR")


def model_card(lake: Lake, settings: Settings) -> str:
    """Return README.md of the exported model, with the head that the Hugging Face hub reads."""
    dataset = lake.home.name
    made = _manifest(lake, "checkpoint")
    network = made.settings["train"]["network"]
    lines = [
        "---", "library_name: llm-edt", "tags:", "- recommendation", "- sequential-recommendation",
        "- cross-domain-recommendation", "---", "",
        f"# {_text(dataset)}: items of several domains, recommended from a user's history", "",
        "A transformer over a user's mixed sequence, shared by all domains, with an adapter per domain: LLM-EDT "
        "([arXiv 2511.19931](https://arxiv.org/abs/2511.19931)).", "",
        "```python", "import llm_edt", "", 'model = llm_edt.load("this folder")',
        'model.recommend([{"user": "u1", "items": ["item id", "item id"]}], top=10)', "```", "",
        "## Data", "", *_data(lake), "", "[DATASET_CARD.md](DATASET_CARD.md) says more.", "",
        "## Training", "",
        f"Preset {made.settings['train']['preset']}, seed {made.settings['train']['seed']}, width {network['hidden']}, "
        f"{network['blocks']} blocks, at most {network['max_length']} actions of a history are read. Trained on "
        f"{made.started} in {made.seconds:,.0f} s with torch {made.versions.get('torch', '?')} and LLM-EDT "
        f"{made.versions.get('llm-edt', '?')}, commit {made.git or 'unknown'}. "
        f"Items are read by the vectors of their texts: {_encoder(lake, settings)}", "",
        "## Language model", "", *_language_model(lake, settings), "",
        "## Figures", "", *_figures(lake), "",
        "## Limits", "", *(f"- {limit}" for limit in _limits(lake)), "",
        "## Files", "",
        "- `config.json`, `model.safetensors`: settings and weights; `catalogue`, `popularity.safetensors`: the items, "
        "the vectors of their texts and how popular they were. No user is in these.",
        "- `vectors/items.parquet`, `vectors/users.parquet` **(holds user ids)**: the dot product of a user's vector "
        "for a domain with an item's of that domain is the score. `vectors/items-N.faiss` finds the largest; its row i "
        "is the domain's i-th row of `items.parquet`. `vectors/index.json` names each one's domain and recall.",
        "- `recommendations` **(holds user ids)**: the lists of the last night.",
        "- `scorers`, where it was asked for: per domain a program from a history to the scores of the domain's items, "
        "in the order of `items.parquet`; `.pt2` needs torch alone, `.onnx` an ONNX runtime.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def dataset_card(lake: Lake) -> str:
    """Return the card of the data that the model was trained on."""
    ingested, split = _manifest(lake, "interactions"), _manifest(lake, "sequences")
    figures = ingested.figures
    times = pc.min_max(lake.read("interactions", columns=["timestamp"])["timestamp"]).as_py()
    span = (
        f"From {times['min']:%Y-%m-%d} to {times['max']:%Y-%m-%d}."
        if ingested.settings["data"]["times"] == "real"
        else "The data tells in which order each user acted, and not when."
    )
    refused = figures["bad"] | figures["filtered"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in refused.items()) or "none"
    sources = [{"file": Path(path).name, "SHA-256": digest} for path, digest in ingested.sources.items()]
    lines = [
        f"# The data of {_text(lake.home.name)}", "", *_data(lake), "", span,
        f"{figures['items_without_text']:,} items have no text. Rows refused: {reasons}.", "",
        "## Files", "", *_table(sources), "", "## Split", "", f"By {split.settings['split']['by']}.", "",
        *_table([split.figures["actions"]]), "",
        "Who collected the data, from whom, with whose consent and under which licence is not known to this program: "
        "write it here before you pass the data, or vectors and lists with user ids, on.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _manifest(lake: Lake, artifact: str) -> Manifest:
    lake.path(artifact)  # raises UserError where there is none
    manifest = lake.manifest(artifact)
    assert manifest is not None
    return manifest


def _data(lake: Lake) -> list[str]:
    figures = _manifest(lake, "interactions").figures
    rows = [
        {"domain": domain, "items": items, "actions": figures["interactions_by_domain"].get(domain, 0)}
        for domain, items in figures["items_by_domain"].items()
    ]
    return [f"{figures['users']:,} users, {figures['interactions']:,} actions.", "", *_table(rows)]


def _encoder(lake: Lake, settings: Settings) -> str:
    embed = _manifest(lake, "item_embeddings").settings["embed"]
    return f"{_text(embed['model'])}, revision {embed['revision']}, {_licence(settings.embed.model)}."


def _language_model(lake: Lake, settings: Settings) -> list[str]:
    """Say what was asked for the items that were inserted into training sequences."""
    made = _manifest(lake, "training_set")
    generated = lake.manifest("generated_items")
    if "augmented_sequences" not in made.inputs or generated is None:
        return [f"None: the generator was `{NONE}`, nothing was inserted and no profile written."]
    generator, model = generated.settings["generator"], generated.settings.get("llm")
    if model is None:
        return [f"None: items were inserted by the generator `{generator}`, which asks no language model."]
    figures = generated.figures
    return [
        f"{_text(model['model'])}, revision {model['revision']}, by the generator `{generator}`, "
        f"{_licence(settings.llm.model)}: {figures.get('ok', 0):,} answered requests for items, "
        f"{sum(figures.get('failed', {}).values()):,} failed."
    ]


def _licence(model: str) -> str:
    found = licence(model)
    return f"licence {_text(found)}" if found else "its licence is not told by its files here"


def _figures(lake: Lake) -> list[str]:
    """Return the test figures of the checkpoint, with protocols and intervals."""
    measured, made = lake.manifest("metrics"), _manifest(lake, "checkpoint")
    if measured is None or measured.inputs["checkpoint"].content != made.outputs["checkpoint"].content:
        return ["This checkpoint has not been measured."]
    by = _manifest(lake, "sequences").settings["split"]["by"]
    wanted = (pc.field("phase") == made.stage) & (pc.field("split") == "test") & (pc.field("group") == "all")
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in lake.read("metrics").filter(wanted & pc.field("metric").isin(CARD_METRICS)).to_pylist():
        key = row["protocol"], row["domain"] or "over all"
        about = {"protocol": key[0], "domain": key[1], "users": row["users"], "candidates": round(row["candidates"])}
        value = f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
        rows.setdefault(key, about)[row["metric"]] = value
    return [
        f"On the test targets, split by {by}; 95 % bootstrap intervals over users.",
        "",
        *_table(list(rows.values())),
    ]


def _limits(lake: Lake) -> list[str]:
    split, data = (_manifest(lake, name).settings for name in ("sequences", "interactions"))
    found = [
        "It recommends items of its catalogue only: a new item needs a new training. An item with a text and no "
        "training action is ranked by its text alone.",
        "It reads a history as it is given. Items that the pipeline inserted into stored sequences are not in this "
        "folder, so that the scores of users who have such items differ from those in `recommendations`.",
        "Recent popularity is that of the day of training, and ages.",
        "The figures are of offline ranking of what users chose anyway; what a list does to users was not measured.",
    ]
    if split["split"]["by"] == "leave-one-out":
        found.append("Split leave-one-out: training saw later actions of other users, so that figures are optimistic.")
    if data["data"]["times"] == "order":
        found.append("The data tells no times: recent popularity is off, and an empty history gets nothing.")
    return found


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows as a table of Markdown."""
    names = list(rows[0]) if rows else []
    lines: list[list[Any]] = [names, ["---"] * len(names), *([row.get(name) for name in names] for row in rows)]
    return [f"| {' | '.join(_text(f'{v:,}' if isinstance(v, int) else str(v)) for v in line)} |" for line in lines]


def _text(text: str) -> str:
    """Return text from data or settings so that Markdown shows it and does nothing else with it."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;").replace("`", "&#96;")
