"""Ask which items of another domain a user would plausibly choose."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from data_lake.errors import UserError
from pipeline.augment.candidates import Candidates
from pipeline.augment.examples import Examples, example_text
from pipeline.config import DomainConfig, EnrichConfig
from pipeline.llm.answers import ask, reply_columns
from pipeline.llm.generator import Candidate, Generator, ItemsQuestion, Request
from pipeline.llm.prompts import (
    ANSWER_CHARACTERS,
    items_schema,
    named,
    numbers_schema,
    render,
    scores_schema,
    slots_below,
    titles_of,
)


def pairs_of(cfg: EnrichConfig, domains: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the (from, to) domains to ask for: those that the settings name, else every ordered pair.

    Raises UserError where the settings name a domain that the data lacks.
    """
    for domain in sorted({domain for pair in cfg.pairs for domain in pair} - set(domains)):
        raise UserError(
            f"[enrich] pairs names the domain '{domain}'; the data has only {', '.join(domains)}. Correct it."
        )
    return cfg.pairs or tuple((a, b) for a in domains for b in domains if a != b)


def generation_rows(representatives: pa.Table, pairs: Sequence[tuple[str, str]], domains: Sequence[str]) -> pa.Table:
    """Return a row per question to ask, in order of users, then `pairs`.

    Its columns are user_id, from_domain, to_domain, item_ids, and `seen` and `forbidden` as the representatives have
    them. A user is asked about a pair with a representative in `from` and a budget in `to`.
    """
    names = pa.array(domains)
    order = pl.DataFrame({
        "pair": range(len(pairs)),
        "from": [domains.index(a) for a, _ in pairs],
        "to": [domains.index(b) for _, b in pairs],
    }, schema={"pair": pl.Int32, "from": pl.Int32, "to": pl.Int32})  # fmt: skip
    known = pl.DataFrame({  # numbers instead of names: joins of names take several times the memory
        "row": range(representatives.num_rows),
        "user": pl.from_arrow(representatives["user_id"].combine_chunks().dictionary_encode().indices),
        "domain": pl.from_arrow(pc.index_in(representatives["domain"], value_set=names)),
        "budget": pl.from_arrow(representatives["budget"]),
        "shown": pl.from_arrow(pc.list_value_length(representatives["item_ids"])),
    })  # fmt: skip
    have = known.filter(pl.col("shown") > 0).select("row", "user", pl.col("domain").alias("from"))
    lack = known.filter(pl.col("budget") > 0).select("user", pl.col("domain").alias("to"))
    rows = have.join(order, on="from").join(lack, on=["user", "to"])
    first = pl.col("row").min().over("user")  # a user's rows stand together
    rows = rows.sort(first, "pair")
    asked = representatives.select(["user_id", "domain", "item_ids", "seen", "forbidden"]).take(rows["row"].to_arrow())
    asked = asked.rename_columns({"domain": "from_domain"})
    return asked.add_column(2, "to_domain", names.take(rows["to"].to_arrow()))


def generate_items(
    rows: pa.Table,
    items: pa.Table,
    generator: Generator,
    cfg: EnrichConfig,
    about: Mapping[str, DomainConfig],
    examples: Examples = MappingProxyType({}),
    candidates: Candidates | None = None,
) -> pa.Table:
    """Return GENERATED_ITEMS, one row per row of `rows` (see `generation_rows`), in the same order.

    All columns of `rows` but `item_ids` are handed on. A reply that cannot be used, even when asked for again with
    fewer and shorter answers, keeps its row: no answers, and the reason. `about` describes domains; one that it lacks
    goes by its name. Where a prompt is too long for the model the oldest items are dropped. `examples` (see
    `augment.examples`) stand in every prompt of their pair. With `candidates` items are chosen from these, or rated, as
    `cfg.ask` says; without, titles are written. Where there is none to choose from the reason is `no_candidates`.
    """
    asked = rows.to_pylist()
    if candidates is not None:
        for row, drawn in zip(asked, candidates.of([_question(row, cfg.answers) for row in asked]), strict=True):
            row["candidates"] = drawn
    shown = {item for row in asked for item in (*row["item_ids"], *row.get("candidates", ()))}
    shown |= {item for pair in examples.values() for example in pair for part in example for item in part}
    titles = titles_of(items, pa.array(shown, pa.string()))
    prompts = _Prompts(titles, generator.tokens.quoted(titles.values(), cfg.title_tokens), cfg, about, examples)

    def request(index: int, is_retry: bool, dropped: int) -> Request | None:
        return prompts.request(asked[index], is_retry, dropped)

    answers = ask(generator, len(asked), request, reason="no_candidates")
    table = rows.drop_columns("item_ids")
    for name, column in reply_columns(answers, generator.identity).items():
        table = table.append_column(name, column)
    texts = pa.array([answer.value for answer in answers], pa.list_(pa.string()))
    known = pa.array([answer.item_ids for answer in answers], pa.list_(pa.string()))
    return table.append_column("answers", texts).append_column("item_ids", known)


class _Prompts:
    """Writes the requests of some users; `lines` are the titles as prompts show them."""

    def __init__(
        self,
        titles: Mapping[str, str],
        lines: Mapping[str, str],
        cfg: EnrichConfig,
        about: Mapping[str, DomainConfig],
        examples: Examples,
    ) -> None:
        self._titles, self._lines, self._cfg, self._about = titles, lines, cfg, about
        self._examples = {pair: example_text(each, pair, about, titles, lines) for pair, each in examples.items()}

    def request(self, row: Mapping[str, Any], is_retry: bool, dropped: int) -> Request | None:
        """Return the request of a row, without its `dropped` oldest items; a retry asks for fewer, shorter answers.

        None where it has candidates and these are none.
        """
        source, target = row["from_domain"], row["to_domain"]
        answers = max(1, self._cfg.answers // 2) if is_retry else self._cfg.answers
        shown = row["item_ids"][min(dropped, len(row["item_ids"]) - 1) :]
        titles = tuple(self._titles[item_id] for item_id in shown)
        candidates = tuple(Candidate(item_id, self._titles[item_id]) for item_id in row.get("candidates", ()))
        if "candidates" in row and not candidates:
            return None
        slots = {
            "from_domain": named(source, self._about),
            "to_domain": named(target, self._about),
            "answers": answers,
            "titles": "\n".join(self._lines[title] for title in titles),
            "candidates": "\n".join(
                f"{number}. {self._lines[each.title]}" for number, each in enumerate(candidates, start=1)
            ),
        }
        question = replace(_question(row, answers), item_ids=tuple(shown), titles=titles, candidates=candidates)
        messages = render(self._text(target), slots, is_retry, self._examples.get((source, target), ""))
        longest = ANSWER_CHARACTERS // 2 if is_retry else ANSWER_CHARACTERS
        if candidates and self._cfg.ask == "score":
            choices = tuple(each.title[:ANSWER_CHARACTERS] for each in candidates)
            return Request(question, messages, scores_schema(len(choices)), ANSWER_CHARACTERS, choices=choices)
        schema = numbers_schema(answers, len(candidates)) if candidates else items_schema(answers, longest)
        return Request(question, messages, schema, self._cfg.max_tokens)

    def _text(self, domain: str) -> str:
        text = self._about.get(domain, DomainConfig()).generate_prompt or self._cfg.prompt
        if self._cfg.ask == "choose" and "candidates" not in slots_below(text):
            raise UserError(
                f'[domains.{domain}] generate_prompt shows no $candidates, which [enrich] ask = "choose" needs. Put it '
                "below the line '---'."
            )
        return text


def _question(row: Mapping[str, Any], answers: int) -> ItemsQuestion:
    return ItemsQuestion(row["user_id"], row["from_domain"], row["to_domain"], tuple(row["item_ids"]), (), answers)
