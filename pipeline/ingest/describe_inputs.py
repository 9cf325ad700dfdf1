"""Look at the heads of raw files and tell how to read them."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import polars as pl

from data_lake.errors import UserError, nearest, shortened
from data_lake.schemas import ALL
from pipeline.config import FilesByDomain, listed, parquet_files
from pipeline.ingest import parquet, readers
from pipeline.ingest.formats import BY_COLUMNS, FORMATS
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
OF_ITEMS = "items."
"""How keys begin that speak of the items files: "items.title"."""
ONE_EACH = " Files of one domain each are given as --domain NAME=FILE"
NO_TIMES = ' Data that tells only in which order each user acted needs [data] times = "order"'
MOST_DOMAINS = 50
USABLE = 0.95
"""Share of the rows at a file's head that a column must give a value in: ingest stops where fewer are good."""
SMALL = 1 << 28
"""Bytes of a text file up to which all of it is read for its domains."""


@dataclass(frozen=True)
class Inputs:
    """How to read raw files: the keys of [data], and what `edt init` says beside them."""

    format: str
    """A known one by its name, or "columns"."""
    columns: dict[str, str]
    """[data.columns]: {our name: the interactions files' name} of what they have."""
    item_columns: dict[str, str]
    """[data.item_columns], likewise."""
    timestamp_unit: str
    domains: tuple[str, ...]
    """In the order of their names; of a large text file only those at its head. Empty where they cannot be told."""
    interactions: int
    """Rows: counted (Parquet) or estimated from the size of the file."""
    items: int
    reasons: dict[str, str]
    """Per key of `columns`, per `items.` key of `item_columns`, and for timestamp_unit and domains: why."""
    missing: dict[str, str]
    """Per key that `ingest` needs and that cannot be told: why."""
    absent: dict[str, str]
    """Per further key that cannot be told: why."""
    warnings: tuple[str, ...] = ()


def describe(
    interactions: FilesByDomain, items: FilesByDomain, given: Mapping[str, str] = MappingProxyType({})
) -> Inputs:
    """Tell columns, unit of time, domains and size from the heads of raw files, or folders of Parquet files.

    `given` says what columns are called, as `Inputs.columns` and, with "items." before the name, `item_columns` do; a
    name that both kinds of files know is taken for those that have such a column. What `ingest` would refuse is
    `missing`. Raises UserError for a file that cannot be read or is empty, and for a given column that no file has.
    """
    actions, catalogue = _Raw("interactions", interactions), _Raw("items", items)
    _check_given(given, actions, catalogue)
    item_columns, item_reasons, item_missing = _choose(catalogue, given, lambda ours, column, values: "")
    domains, known, why = _domains(catalogue, item_columns)
    if why:
        item_missing["domain"] = why
        del item_columns["domain"]

    def problem(ours: str, column: str, values: pl.Series) -> str:
        if ours == "timestamp":
            return _unit(column, values)[2]
        if ours == "rating":
            return _no_number(column, values)
        if ours == "domain":
            return _unknown(column, values, pl.Series(domains, dtype=pl.String), "a domain of the items", USABLE)
        return _unknown(column, values, known, "an item of the items file", 1 - USABLE) if ours == "item_id" else ""

    columns, reasons, missing = _choose(actions, given, problem)
    unit, reasons["timestamp_unit"] = "auto", "or s, ms, us, ns, iso"
    if "timestamp" in columns:
        unit, reasons["timestamp_unit"], _ = _unit(columns["timestamp"], actions.head(columns["timestamp"]))
    reasons |= {OF_ITEMS + name: reason for name, reason in item_reasons.items()}
    absent = _absent(actions, columns, missing)
    absent |= {OF_ITEMS + name: why for name, why in _absent(catalogue, item_columns, item_missing).items()}
    return Inputs(
        format=BY_COLUMNS if given or missing else _format(actions, catalogue),
        columns=columns,
        item_columns=item_columns,
        timestamp_unit=unit,
        domains=domains,
        interactions=sum(map(_count_rows, actions.paths)),
        items=sum(map(_count_rows, catalogue.paths)),
        reasons=reasons,
        missing=missing | {OF_ITEMS + name: why for name, why in item_missing.items()},
        absent=absent,
        warnings=tuple(_warnings(catalogue, domains, absent)),
    )


def tell_kind(path: Path, given: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return whether a file holds "interactions" or "items": the former have a column of users. Raises UserError."""
    there = readers.columns_of(_parquet_files(path)[0])
    return "interactions" if given.get("user_id") in there or _alike("user_id", there) else "items"


class _Raw:
    """The files of one kind."""

    def __init__(self, kind: str, files: FilesByDomain) -> None:
        """Raises UserError where one cannot be read, or where there is no row."""
        self.kind, self.files = (
            kind,
            [(domain, each) for domain, path in listed(files) for each in _parquet_files(path)],
        )
        self.paths = [path for _, path in self.files]
        self.name = str(listed(files)[0][1]) if len(listed(files)) == 1 else f"the files of {kind}"
        every = [readers.columns_of(path) for path in self.paths]
        self.there = [name for name in every[0] if all(name in columns for columns in every)]
        """The columns that all of them have."""
        self.is_by_domain = any(domain is not None for domain, _ in self.files)
        if not self.there:
            raise UserError(f"{self.name}: they have no column in common. Give files with the same columns.")
        if not any(len(self._head(path, self.there[0])) for path in self.paths):
            raise UserError(f"{self.name}: no row, only the names of columns. Give a file with rows.")

    def names(self, of: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Return those of our names for columns that are of these files; files by domain need no column for it."""
        return tuple(name for name in of[self.kind] if not (name == "domain" and self.is_by_domain))

    def head(self, column: str) -> pl.Series:
        """Return the values at the heads of all files."""
        heads = [self._head(path, column) for path in self.paths]
        return pl.concat(
            heads if len({each.dtype for each in heads}) == 1 else [each.cast(pl.String) for each in heads]
        )

    def _head(self, path: Path, column: str) -> pl.Series:
        return readers.read(path, [column], only_head=True).good[column]


def _parquet_files(path: Path) -> tuple[Path, ...]:
    try:
        return parquet_files(path)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def _alike(ours: str, there: Sequence[str]) -> list[str]:
    """Return the columns that are called by a common name for ours, the likeliest first."""
    plain = {re.sub(r"[\s_-]", "", name).lower(): name for name in reversed(there)}
    keys = dict.fromkeys(name.replace("_", "") for name in SYNONYMS[ours])
    return [plain[key] for key in keys if key in plain]


def _check_given(given: Mapping[str, str], actions: _Raw, catalogue: _Raw) -> None:
    for name, theirs in given.items():
        ours = name.removeprefix(OF_ITEMS)
        kinds = [raw for raw in (actions, catalogue) if ours in (*NEEDED[raw.kind], *OPTIONAL[raw.kind])]
        kinds = [raw for raw in kinds if raw is catalogue or ours == name]
        if not kinds:
            known = [*SYNONYMS, *(OF_ITEMS + each for each in (*NEEDED["items"], *OPTIONAL["items"]))]
            raise UserError(f"--column {name}={theirs}: {name!r} is none of {', '.join(known)}.{nearest(name, known)}")
        if not any(theirs in raw.there for raw in kinds):
            there = "; ".join(f"{raw.name}: {shortened(raw.there)}" for raw in kinds)
            every = [column for raw in kinds for column in raw.there]
            raise UserError(
                f"--column {name}={theirs}: there is no column {theirs!r}.{nearest(theirs, every)} {there}."
            )


def _candidates(raw: _Raw, ours: str, given: Mapping[str, str]) -> tuple[list[str], str]:
    """Return the files' names for one of our columns, the likeliest first, and why they may be."""
    for name in (*((OF_ITEMS + ours,) if raw.kind == "items" else ()), ours):
        if given.get(name) in raw.there:
            return [given[name]], f"given as --column {name}"
    return _alike(ours, raw.there), ""


def _choose(
    raw: _Raw, given: Mapping[str, str], problem: Callable[[str, str, pl.Series], str]
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return {our name: the files' name} of the first column of each in which there is no problem, and why.

    Also return why there is none of those that are needed, and of those that `ingest` would read and refuse.
    """
    found, reasons, missing = dict[str, str](), dict[str, str](), dict[str, str]()
    needed = raw.names(NEEDED)
    for ours in (*needed, *raw.names(OPTIONAL)):
        names, why = _candidates(raw, ours, given)
        problems = {}
        for theirs in names:
            problems[theirs] = problem(ours, theirs, raw.head(theirs))
            if not problems[theirs]:
                found[ours] = theirs
                common = "a column of that name" if theirs == ours else f"'{theirs}' is a common name for it"
                reasons[ours] = why or common
                break
        if ours in found or not (ours in needed or ours in problems or why):
            continue
        missing[ours] = problems.get(ours) or next(iter(problems.values()), _not_found(raw, ours))
    return found, reasons, missing


def _not_found(raw: _Raw, ours: str) -> str:
    also = {"domain": ONE_EACH, "timestamp": NO_TIMES}.get(ours, "")
    row = " Is its first line a row? It must name the columns." if any(map(_is_number, raw.there)) else ""
    return f"no column of {raw.name} looks like {ours}: {shortened(raw.there)}.{row}{also}"


def _absent(raw: _Raw, found: Mapping[str, str], missing: Mapping[str, str]) -> dict[str, str]:
    """Return the optional columns that no file has, and why."""
    names = [ours for ours in raw.names(OPTIONAL) if ours not in found and ours not in missing]
    return dict.fromkeys(names, f"no column of {raw.name} looks like it")


def _warnings(catalogue: _Raw, domains: Sequence[str], absent: Mapping[str, str]) -> Iterator[str]:
    """Yield what a person should know of files that ingest takes."""
    if len(domains) == 1:
        yield (
            f"{catalogue.name}: all items are of one domain, '{domains[0]}': enrichment has nothing to do, for there "
            'is no other domain to carry anything to. Set [enrich] generator = "none", and the trainer runs alone.'
        )
    if OF_ITEMS + "title" in absent:
        yield (
            f"{_not_found(catalogue, 'title')} An item without a title or a text gets no vector, and nothing is asked "
            "or answered about it. Name the column with --column title=NAME."
        )


def _is_number(name: str) -> bool:
    return name.replace(".", "", 1).isdecimal()


def _format(actions: _Raw, catalogue: _Raw) -> str:
    """Return the known format whose columns the files have."""
    for name, known in FORMATS.items():
        columns = {known.user_id, known.item_id, known.timestamp, known.rating}
        if columns <= set(actions.there) and known.item_id in catalogue.there:
            return name
    return BY_COLUMNS


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


def _domains(raw: _Raw, columns: Mapping[str, str]) -> tuple[tuple[str, ...], pl.Series, str]:
    """Return the domains of the items files; where all was read the items' ids; and what is wrong with the domains."""
    whole = sum(path.stat().st_size for path in raw.paths) < SMALL or readers.kind_of(raw.paths[0]) == "parquet"
    wanted = [columns[name] for name in ("domain", "item_id") if name in columns]
    paths = raw.paths if wanted else []
    frames = [readers.read(path, list(dict.fromkeys(wanted)), only_head=not whole).good for path in paths]

    def values(name: str) -> pl.Series:
        parts = [read_ids(frame[columns[name]]) for frame in frames] if name in columns else []
        return pl.concat(parts).drop_nulls() if parts else pl.Series(dtype=pl.String)

    known = values("item_id") if whole else pl.Series(dtype=pl.String)
    if raw.is_by_domain:
        return tuple(sorted({domain for domain, _ in raw.files if domain is not None})), known, ""
    if "domain" not in columns:
        return (), known, ""
    domains, column = tuple(values("domain").unique().sort()), columns["domain"]
    if not domains:
        return (), known, f"column '{column}' is empty"
    if len(domains) > MOST_DOMAINS:
        many = f"column '{column}' has {len(domains)} values such as '{domains[0]}', too many for domains."
        return (), known, f"{many} A column with a few values is wanted.{ONE_EACH}"
    if ALL in domains:
        return (), known, f"a domain cannot be called '{ALL}', the name for all domains. Rename it in the data"
    return domains, known, ""


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
