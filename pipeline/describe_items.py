"""Ask once what each item is like, whatever its domain, and what it goes with in the other domains."""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.config import DescribeConfig, DomainConfig
from pipeline.llm.answers import ask, reply_columns
from pipeline.llm.generator import DescriptionQuestion, Generator, Request
from pipeline.llm.prompts import DESCRIPTION, PHRASE_CHARACTERS, description_schema, named, render, titles_of


def describe_items(
    items: pa.Table,
    generator: Generator,
    cfg: DescribeConfig,
    about: Mapping[str, DomainConfig],
    domains: Sequence[str],
) -> pa.Table:
    """Return ITEM_DESCRIPTIONS, one row per row of `items`, in the same order.

    A prompt shows the title, or the text in its place, and nothing of any user. An item with neither is not asked
    about, reason `no_title`. A second request, where the first reply cannot be used, asks for fewer, shorter phrases.
    `about` describes domains; one that it lacks goes by its name.
    """
    titles = titles_of(items, items["item_id"])
    lines = generator.tokens.quoted(titles.values(), cfg.title_tokens)
    others = {domain: ", ".join(named(other, about) for other in domains if other != domain) for domain in domains}
    asked = list(zip(items["item_id"].to_pylist(), items["domain"].to_pylist(), strict=True))

    def request(index: int, is_retry: bool, dropped: int) -> Request | None:
        item_id, domain = asked[index]
        if item_id not in titles:
            return None
        sizes = {name: getattr(cfg, name) for name in DESCRIPTION}
        if is_retry:
            sizes = {name: max(1, size // 2) for name, size in sizes.items()}
        title = titles[item_id]
        slots = {"domain": named(domain, about), "other_domains": others[domain], "title": lines[title], **sizes}
        return Request(
            question=DescriptionQuestion(domain, title),
            messages=render(cfg.prompt, slots, is_retry),
            schema=description_schema(sizes, PHRASE_CHARACTERS // 2 if is_retry else PHRASE_CHARACTERS),
            max_tokens=cfg.max_tokens,
        )

    answers = ask(generator, len(asked), request, reason="no_title")
    table = items.select(["item_id", "domain"])
    for name, column in reply_columns(answers, generator.identity).items():
        table = table.append_column(name, column)
    for name in DESCRIPTION:
        phrases = [
            [phrase for phrase, field in zip(answer.value, answer.fields, strict=True) if field == name]
            for answer in answers
        ]
        table = table.append_column(name, pa.array(phrases, pa.list_(pa.string())))
    return table
