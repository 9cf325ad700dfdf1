"""Look at the heads of two raw files and tell how to read them."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data_lake.errors import UserError
from pipeline.ingest import readers
from pipeline.ingest.times import read_times, unit_of

SYNONYMS = {
    "user_id": ("user_id", "userid", "user", "reviewerid", "customer_id", "customerid", "customer", "uid", "visitorid"),
    "item_id": (
        "item_id", "itemid", "item", "parent_asin", "asin", "product_id", "productid", "product", "sku", "article_id",
        "movieid", "iid",
    ),
    "timestamp": (
        "timestamp", "unixreviewtime", "time", "ts", "event_time", "datetime", "created_at", "date", "event_timestamp",
        "purchase_date", "t_dat",
    ),
    "domain": ("domain", "category", "main_category", "department", "catalogue", "catalog"),
    "position": ("position", "pos"),
    "rating": ("rating", "overall", "stars", "score"),
    "title": ("title", "item_title", "product_title", "name", "product_name", "prod_name", "item_name"),
}  # fmt: skip
"""Common names of each column, the likeliest first; compared without case, white space and underscores."""

NEEDED = {"interactions": ("user_id", "item_id", "timestamp"), "items": ("item_id", "domain")}
OPTIONAL = {"interactions": ("domain", "position", "rating"), "items": ("title",)}
ONE_EACH = (
    " Files of one domain each need settings written by hand: [data] interactions and items = "
    '{food = FILE, kitchen = FILE}, and format = "amazon-2014" (or -2018, -2023) where they are Amazon\'s.'
)
NO_TIMES = (
    ' Data that tells only in which order each user acted needs settings written by hand: [data] times = "order".'
)
MOST_DOMAINS = 50
SMALL = 1 << 28
"""Bytes of a text file up to which all of it is read for its domains."""


@dataclass(frozen=True)
class Inputs:
    """How to read two files: the keys of [data], and what `edt init` says beside them."""

    columns: dict[str, str]
    """[data.columns]: {our name: the interactions file's name} of what it has."""
    item_columns: dict[str, str]
    """[data.item_columns], likewise."""
    timestamp_unit: str
    domains: tuple[str, ...]
    """In the order of their names; of a large text file only those at its head."""
    interactions: int
    """Rows: counted (Parquet) or estimated from the size of the file."""
    items: int
    reasons: dict[str, str]
    """Per key of `columns`, per `items.` key of `item_columns`, and for timestamp_unit and domains: why."""


def describe(interactions_file: Path, items_file: Path) -> Inputs:
    """Tell columns, unit of time, domains and size from the heads of the files.

    Raises UserError where a needed column is not found, naming the columns that exist.
    """
    columns, reasons = _match(interactions_file, "interactions")
    item_columns, item_reasons = _match(items_file, "items")
    reasons |= {f"items.{name}": reason for name, reason in item_reasons.items()}
    unit, reasons["timestamp_unit"] = _unit(interactions_file, columns["timestamp"])
    domains, reasons["domains"] = _domains(items_file, item_columns["domain"])
    return Inputs(
        columns, item_columns, unit, domains, _count_rows(interactions_file), _count_rows(items_file), reasons
    )


def _match(path: Path, kind: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return {our name: the file's name} and why, by common names."""
    there = readers.columns_of(path)
    plain = {re.sub(r"[\s_-]", "", name).lower(): name for name in reversed(there)}
    found, reasons = {}, {}
    for ours in (*NEEDED[kind], *OPTIONAL[kind]):
        theirs = next((plain[key] for name in SYNONYMS[ours] if (key := name.replace("_", "")) in plain), None)
        if theirs is not None:
            found[ours] = theirs
            reasons[ours] = "a column of that name" if theirs == ours else f"'{theirs}' is a common name for it"
        elif ours in NEEDED[kind]:
            also = {"domain": ONE_EACH, "timestamp": NO_TIMES}.get(ours, "")
            raise UserError(
                f"{path}: no column looks like {ours}. It has {', '.join(there)}. Rename one to {ours}, or write "
                f"[data.{'columns' if kind == 'interactions' else 'item_columns'}] {ours} by hand.{also}"
            )
    return found, reasons


def _unit(path: Path, column: str) -> tuple[str, str]:
    """Return the unit of times and why."""
    head = readers.read(path, [column], only_head=True).good[column]
    if head.dtype in (pl.Datetime, pl.Date):
        return "auto", "the column is typed as a time"
    numbers = head.cast(pl.Float64, strict=False).fill_nan(None).drop_nulls()
    if len(numbers) > len(head) / 2:
        unit = unit_of(numbers)
        return unit, f"numbers such as {head.drop_nulls()[0]}"
    times = read_times(head, "iso") if head.dtype == pl.String else head.clear()
    if not times.count():
        example = next(iter(head.drop_nulls()), "nothing")
        raise UserError(
            f"{path}: column '{column}' holds {example!r}, no times. Use seconds, milliseconds or ISO 8601."
        )
    return "iso", f"texts such as '{head.drop_nulls()[0]}'"


def _domains(path: Path, column: str) -> tuple[tuple[str, ...], str]:
    """Return the domains of the items file and where they were seen."""
    whole = readers.kind_of(path) == "parquet" or path.stat().st_size < SMALL
    values = readers.read(path, [column], only_head=not whole).good[column].cast(pl.String).str.strip_chars()
    domains = tuple(sorted(set(values.drop_nulls().unique()) - {""}))
    if len(domains) > MOST_DOMAINS:
        raise UserError(
            f"{path}: column '{column}' has {len(domains)} values such as '{domains[0]}', too many for domains. "
            "Add a column 'domain' with a few values."
        )
    return domains, f"values of '{column}'" + ("" if whole else " at the head of the file")


def _count_rows(path: Path) -> int:
    """Return the rows of a file: known (Parquet) or estimated from the bytes of its first lines."""
    if readers.kind_of(path) == "parquet":
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    head, is_all = readers.head(path)
    lines = head.count(b"\n") + (not head.endswith(b"\n"))
    if not is_all:
        packed = len(zlib.compress(head)) if path.name.lower().endswith(".gz") else len(head)
        lines = round(lines * path.stat().st_size / packed)
    return max(lines - (readers.kind_of(path) in readers.SEPARATORS), 0)
