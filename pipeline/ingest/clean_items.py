"""Clean the items: one row each, with a title and a text."""

import html

import polars as pl

from data_lake.errors import UserError
from data_lake.schemas import ALL
from pipeline.ingest.refused import Refused

_TAGS = (
    "a|abbr|b|big|blockquote|body|br|button|center|code|dd|del|div|dl|dt|em|font|footer|form|h[1-6]|head|header|hr|html|"
    "i|iframe|img|input|ins|label|li|link|meta|nav|noscript|ol|option|p|pre|s|section|select|small|span|strike|strong|"
    "style|script|sub|sup|svg|table|tbody|td|th|thead|title|tr|u|ul"
)
_MARKUP = (
    r"(?is)<!--.*?(?:-->|\z)|<script\b.*?(?:</script\s*>|\z)|<style\b.*?(?:</style\s*>|\z)|<!doctype[^<>]*>"
    rf"|</?(?:{_TAGS})(?:\s[^<>]*)?/?>"
    r"|\bvar aPageStart\b.*\z"  # where the catalogue of 2018 took the whole page for a title
)


def clean_items(items: pl.DataFrame, refused: Refused) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the items, one row each with title and text, and every domain that each item is listed in."""
    check_domains(items)
    reason = pl.when(pl.col("item_id").is_null()).then(pl.lit("no_item")).when(pl.col("domain").is_null())
    items = refused.take(items, reason.then(pl.lit("no_domain")), "item")
    listings = items.select("item_id", "domain").unique(maintain_order=True)
    again = ~pl.col("item_id").is_first_distinct()
    elsewhere = pl.col("domain") != pl.col("domain").first().over("item_id")
    reason = pl.when(again & elsewhere).then(pl.lit("item_in_two_domains")).when(again)
    items = refused.take(items, reason.then(pl.lit("duplicate_item")), "item")
    further = [name for name in items.columns if name.startswith("raw_text_")]
    texts = [_folded(items[name]).alias(name.removeprefix("raw_")) for name in further]
    items = items.with_columns(_folded(items["raw_title"]).alias("title"), *texts)
    text = pl.concat_str(["title", *(part.name for part in texts)], separator=" ", ignore_nulls=True)
    return items.with_columns(text=text.replace("", None)), listings


def check_domains(items: pl.DataFrame) -> None:
    """Refuse a domain of items that is called as all domains together are."""
    if items["domain"].eq(ALL).any():
        raise UserError(f"A domain cannot be called '{ALL}', the name for all domains together. Rename it in the data.")


def _folded(texts: pl.Series) -> pl.Series:
    """Return texts without HTML entities, markup, scripts and repeated white space; null where nothing is left."""
    texts = texts.cast(pl.String)
    escaped = texts.str.contains("&", literal=True).fill_null(False).arg_true()
    if len(escaped):  # twice: catalogues hold &amp;quot; too
        texts = texts.scatter(escaped, [html.unescape(html.unescape(text)) for text in texts.gather(escaped)])
    texts = texts.str.replace_all(_MARKUP, " ").str.replace_all(r"[\s\x00-\x1f\x7f]+", " ")
    return texts.str.strip_chars().replace("", None)
