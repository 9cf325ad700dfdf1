"""Look at the heads of two raw files and tell how to read them."""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from data_lake.errors import UserError, shortened
from data_lake.schemas import ALL
from pipeline.config import parquet_files
from pipeline.ingest import parquet, readers
from pipeline.ingest.ids import is_missing_word, read_ids
from pipeline.ingest.times import EARLIEST, LATEST, day_of, read_times, unit_of

SYNONYMS = {
    "user_id": ("user_id", "userid", "user", "reviewerid", "customer_id", "customerid", "customer", "uid", "visitorid"),
    "item_id": (
        "item_id", "itemid", "item", "parent_asin", "asin", "product_id", "productid", "product", "sku", "article_id",
        "movieid", "iid",
    ),
    "timestamp": (
        "timestamp", "unixreviewtime", "time", "ts", "event_time", "datetime", "created_at", "event_timestamp",
        "time_ms", "timestamp_ms", "unix_timestamp", "unixtime", "epoch", "date", "purchase_date", "t_dat",
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
USABLE = 0.95
"""Share of the rows at a file's head that a column must give a value in: ingest stops where fewer are good."""
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
    warnings: tuple[str, ...] = ()


def describe(interactions: Path, items: Path) -> Inputs:
    """Tell columns, unit of time, domains and size from the heads of two files, or folders of Parquet files.

    Raises UserError where a needed column is not found, naming the columns that exist, or where `ingest` would refuse
    what is found, naming a value.
    """
    action_files, item_files = _files(interactions), _files(items)
    candidates, item_candidates = _candidates(action_files[0], "interactions"), _candidates(item_files[0], "items")
    item_columns, item_reasons = _choose(item_files[0], "items", item_candidates, lambda ours, column, values: "")
    domains, known, reason = _domains(item_files, item_columns["domain"], item_columns["item_id"])

    def problem(ours: str, column: str, values: pl.Series) -> str:
        if not len(values):
            return "no row, only the names of columns. Give a file with rows"
        if ours == "timestamp":
            return _unit(column, values)[2]
        if ours == "rating":
            return _no_number(column, values)
        if ours == "domain":
            return _unknown(column, values, pl.Series(domains, dtype=pl.String), "a domain of the items", USABLE)
        return _unknown(column, values, known, "an item of the items file", 1 - USABLE) if ours == "item_id" else ""

    columns, reasons = _choose(action_files[0], "interactions", candidates, problem)
    reasons |= {f"items.{name}": reason for name, reason in item_reasons.items()} | {"domains": reason}
    unit, reasons["timestamp_unit"], _ = _unit(columns["timestamp"], _head(action_files[0], columns["timestamp"]))
    rows, item_rows = (sum(map(_count_rows, files)) for files in (action_files, item_files))
    only = f"{items}: all items are of one domain, '{domains[0]}': nothing can be carried to another."
    return Inputs(columns, item_columns, unit, domains, rows, item_rows, reasons, (only,) if len(domains) == 1 else ())


def _files(path: Path) -> tuple[Path, ...]:
    try:
        return parquet_files(path)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def _head(path: Path, column: str) -> pl.Series:
    return readers.read(path, [column], only_head=True).good[column]


def _candidates(path: Path, kind: str) -> dict[str, list[str]]:
    """Return {our name: the file's names for it} by common names, the likeliest first."""
    there = readers.columns_of(path)
    plain = {re.sub(r"[\s_-]", "", name).lower(): name for name in reversed(there)}
    found = {}
    for ours in (*NEEDED[kind], *OPTIONAL[kind]):
        keys = dict.fromkeys(name.replace("_", "") for name in SYNONYMS[ours])
        found[ours] = [plain[key] for key in keys if key in plain]
        if ours in NEEDED[kind] and not found[ours]:
            also = {"domain": ONE_EACH, "timestamp": NO_TIMES}.get(ours, "")
            row = " Is its first line a row? It must name the columns." if any(map(_is_number, there)) else ""
            raise UserError(
                f"{path}: no column looks like {ours}. It has {shortened(there)}.{row} Rename one to {ours}, or write "
                f"[data.{'columns' if kind == 'interactions' else 'item_columns'}] {ours} by hand.{also}"
            )
    return found


def _is_number(name: str) -> bool:
    return name.replace(".", "", 1).isdecimal()


def _choose(
    path: Path, kind: str, candidates: dict[str, list[str]], problem: Callable[[str, str, pl.Series], str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return {our name: the file's name} of the first column of each in which there is no problem, and why."""
    found, reasons = {}, {}
    for ours, names in candidates.items():
        problems = {}
        for theirs in names:
            problems[theirs] = problem(ours, theirs, _head(path, theirs))
            if not problems[theirs]:
                found[ours] = theirs
                reasons[ours] = "a column of that name" if theirs == ours else f"'{theirs}' is a common name for it"
                break
        if ours not in found and (ours in problems or (problems and ours in NEEDED[kind])):
            raise UserError(f"{path}: {problems.get(ours) or next(iter(problems.values()))}.")
    return found, reasons


def _unit(column: str, head: pl.Series) -> tuple[str, str, str]:
    """Return the unit of times, why, and what is wrong with the column, if anything."""
    example = next(iter(head.drop_nulls()), "nothing")
    untyped = head.clear() if head.dtype.is_temporal() else head
    numbers = untyped.cast(pl.Float64, strict=False).fill_nan(None).drop_nulls()
    if head.dtype.is_temporal():
        unit, reason = "auto", "the column is typed as a time"
    elif 2 * len(numbers) > head.count():
        unit, reason = unit_of(numbers), f"numbers such as {example}"
    else:
        unit, reason = "iso", f"texts such as '{example}'"
    times = read_times(head, unit)
    if not times.count():
        return unit, reason, f"column '{column}' holds {example!r}, no times. Use seconds, milliseconds or ISO 8601"
    taken = times.is_between(EARLIEST, LATEST, closed="left").fill_null(False)
    if taken.sum() < USABLE * len(head):
        bad = pl.DataFrame({"raw": head, "time": times}).filter(~taken).drop_nulls("raw")[:1]
        what = f"is empty in {len(head) - taken.sum():,} of the first {len(head):,} rows"
        if len(bad):
            read = f"read as {day_of(bad['time'])} ({unit})" if bad["time"].count() else "no time"
            what = f"holds {bad['raw'][0]!r}, {read}; times from {EARLIEST:%Y} to {LATEST:%Y} are taken"
        return unit, reason, f"column '{column}' {what}"
    return unit, reason, ""


def _no_number(column: str, head: pl.Series) -> str:
    texts = head.cast(pl.String)
    wrong = texts.filter(~is_missing_word(texts) & head.cast(pl.Float64, strict=False).is_null()).drop_nulls()
    if len(wrong) <= (1 - USABLE) * len(head):
        return ""
    return f"column '{column}' holds {wrong[0]!r}, no number. Rename the column if it is no rating"


def _unknown(column: str, head: pl.Series, known: pl.Series, what: str, least: float) -> str:
    """Say that fewer than the share `least` of a column's values are known; some may be missing."""
    ids = read_ids(head).drop_nulls()
    if not len(known) or not len(ids) or (is_known := ids.is_in(known.implode())).sum() >= least * len(ids):
        return ""
    strange = ids.filter(~is_known)[0]
    return f"column '{column}' holds {strange!r}, which is not {what}, such as {known[0]!r}. Are the files of one shop?"


def _domains(paths: tuple[Path, ...], column: str, item_column: str) -> tuple[tuple[str, ...], pl.Series, str]:
    """Return the domains of the items files, their ids where all were read, and where that was seen."""
    whole = sum(path.stat().st_size for path in paths) < SMALL or readers.kind_of(paths[0]) == "parquet"
    frames = [
        readers.read(path, list(dict.fromkeys([column, item_column])), only_head=not whole).good for path in paths
    ]
    values = pl.concat([read_ids(frame[column]) for frame in frames])
    known = pl.concat([read_ids(frame[item_column]) for frame in frames]).drop_nulls()
    domains = tuple(values.drop_nulls().unique().sort())
    if not domains:
        what = f"column '{column}' is empty" if len(values) else "no row, only the names of columns"
        raise UserError(f"{paths[0]}: {what}. Give a file with the items and their domains.")
    if len(domains) > MOST_DOMAINS:
        raise UserError(
            f"{paths[0]}: column '{column}' has {len(domains)} values such as '{domains[0]}', too many for domains. "
            "Add a column 'domain' with a few values."
        )
    if ALL in domains:
        raise UserError(
            f"{paths[0]}: a domain cannot be called '{ALL}', the name for all domains. Rename it in the data."
        )
    return (
        domains,
        known if whole else known.clear(),
        f"values of '{column}'" + ("" if whole else " at the head of the file"),
    )


def _count_rows(path: Path) -> int:
    """Return the rows of a file: known (Parquet) or estimated from the bytes of its first lines."""
    if readers.kind_of(path) == "parquet":
        return parquet.count_rows(path)
    head, is_all = readers.head(path)
    lines = head.count(b"\n") + (not head.endswith(b"\n"))
    if not is_all:
        packed = len(zlib.compress(head)) if path.name.lower().endswith(".gz") else len(head)
        lines = round(lines * path.stat().st_size / packed)
    return max(lines - (readers.kind_of(path) in readers.SEPARATORS), 0)
