"""Users active in both domains, whose real choices show the language model what is asked for.

The same examples stand in every prompt of a pair of domains, so that a prefix cache serves them. They are kept from run
to run: a new action of an example's user must not change everybody's prompt.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from pipeline.config import DomainConfig, EnrichConfig
from pipeline.frames import frame_of
from pipeline.histories import prompt_visible
from pipeline.llm.prompts import load_prompt, named, render_example

Examples = Mapping[tuple[str, str], Sequence[tuple[Sequence[str], Sequence[str]]]]
"""Per pair (from, to): the item ids of each example, those in `from` and those in `to`."""


def load_or_choose_examples(
    representatives: pa.Table,
    sequences: pa.Table,
    pairs: Sequence[tuple[str, str]],
    cfg: EnrichConfig,
    cache: KeyedCache,
) -> dict[tuple[str, str], list[tuple[list[str], list[str]]]]:
    """Return `cfg.examples` examples per pair, fewer where fewer users have items in both domains.

    An example is a user's representative items. Those that `cache` holds stay as long as the part of their user's
    history that prompts may show still holds all their items; the others are chosen among the users with most items,
    up to two, in both domains by the hash of seed and user, and held from now on. Probes, who have representatives
    and no sequence, are no examples.
    """
    real = frame_of(representatives).join(frame_of(sequences), on="user_id", how="semi", maintain_order="left")
    known = real.filter(pl.col("item_ids").list.len() > 0).select("user_id", "domain", "item_ids")
    keys = {pair: _key(pair, cfg) for pair in pairs}
    held = {row["key"]: json.loads(row["examples"]) for row in cache.get(list(keys.values())).to_pylist()}
    valid = _still_shown([each for examples in held.values() for each in examples], sequences, cfg.prompt_share)
    found, new = {}, []
    for pair, key in keys.items():
        before = held.get(key, [])
        examples = [each for each in before if json.dumps(each) in valid]
        if len(examples) < cfg.examples:
            taken = {each["user_id"] for each in examples}
            examples += _choose(known, pair, cfg, taken)[: cfg.examples - len(examples)]
        if examples != before:
            new.append({"key": key, "examples": json.dumps(examples)})
        found[pair] = [(each["from"], each["to"]) for each in examples]
    if new:
        cache.put(pa.Table.from_pylist(new))
    return found


def example_text(
    examples: Sequence[tuple[Sequence[str], Sequence[str]]],
    pair: tuple[str, str],
    about: Mapping[str, DomainConfig],
    titles: Mapping[str, str],
    lines: Mapping[str, str],
) -> str:
    """Return what a prompt says of the examples: titles, quoted as `lines` has them, and the reply they would make."""
    texts = []
    for chosen, wanted in examples:
        shown = [lines[titles[item_id]] for item_id in chosen if item_id in titles]
        reply = [lines[titles[item_id]] for item_id in wanted if item_id in titles]
        slots = {
            "from_domain": named(pair[0], about),
            "to_domain": named(pair[1], about),
            "titles": "\n".join(shown),
            "answers": f'{{"items": [{", ".join(reply)}]}}',
        }
        texts.append(render_example(load_prompt("example"), slots))
    return "\n\n".join(texts)


def _choose(known: pl.DataFrame, pair: tuple[str, str], cfg: EnrichConfig, taken: set[str]) -> list[dict[str, Any]]:
    start, end = (known.filter(pl.col("domain") == domain).drop("domain") for domain in pair)
    both = start.join(end, on="user_id", suffix="_to").filter(~pl.col("user_id").is_in(list(taken)))
    fewest = pl.min_horizontal(pl.col("item_ids", "item_ids_to").list.len()).clip(upper_bound=2)
    best = both.filter(fewest == fewest.max())
    marks = [hashlib.sha256(f"{cfg.seed}\0{user}".encode()).hexdigest() for user in best["user_id"].to_list()]
    chosen = best.with_columns(mark=pl.Series(marks, dtype=pl.String)).sort("mark").head(cfg.examples)
    return [{"user_id": row["user_id"], "from": row["item_ids"], "to": row["item_ids_to"]} for row in chosen.to_dicts()]


def _still_shown(examples: list[dict[str, Any]], sequences: pa.Table, prompt_share: float) -> set[str]:
    """Return, as JSON, the examples whose user's shown part holds all of their items."""
    users = {each["user_id"] for each in examples}
    if not users:
        return set()
    theirs = frame_of(sequences).filter(pl.col("user_id").is_in(list(users)))
    shown = prompt_visible(theirs.to_arrow(compat_level=pl.CompatLevel.oldest()), prompt_share)
    items = dict(shown.group_by("user_id").agg("item_id").iter_rows())
    return {
        json.dumps(each)
        for each in examples
        if set(each["from"]) | set(each["to"]) <= set(items.get(each["user_id"], ()))
    }


def _key(pair: tuple[str, str], cfg: EnrichConfig) -> str:
    known = [*pair, cfg.examples, cfg.seed]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
