"""Turn raw files into clean interactions and items, with a reason for each row that is refused."""

import html
from collections.abc import Set
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.errors import DataRefused, UserError, shortened
from data_lake.schemas import ALL, INTERACTIONS, ITEMS, QUERIES, REJECTS
from pipeline.config import ColumnsConfig, DataConfig, ItemColumnsConfig, SplitConfig, listed, short_names
from pipeline.frames import frame_of, to_arrow
from pipeline.ingest import readers
from pipeline.ingest.forgotten import FORGOTTEN, hash_user
from pipeline.ingest.formats import BY_COLUMNS, FORMATS
from pipeline.ingest.ids import is_missing_word, missing_words, read_ids, written_otherwise
from pipeline.ingest.times import EARLIEST, LATEST, day_of, read_times

LEAVE_ONE_OUT = SplitConfig()

NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""The timestamp of every action where `times` is "order": who compares or ages timestamps finds no difference."""

FILTERED = ("rating_below_minimum", "user_below_minimum", "item_below_minimum", FORGOTTEN)
"""Reasons that say nothing against a row; all others count towards `max_bad`."""

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
_FILE = pl.UInt32
_IDS = ("user_id", "item_id", "domain")


@dataclass(frozen=True)
class Ingested:
    """Tables of the schemas INTERACTIONS, ITEMS, QUERIES and REJECTS, and the figures for the manifest.

    Each row of the files is in exactly one of them: rows = interactions + rejects of the kind "interaction",
    rows = queries + rejects of the kind "query", and rows = items + rejects of the kind "item" (less `items_added`,
    where `unknown_items` is "keep").
    """

    interactions: pa.Table
    items: pa.Table
    queries: pa.Table
    rejects: pa.Table
    figures: dict[str, Any]
    warnings: tuple[str, ...]
    """What a person should know of the data that was taken, a sentence each."""


def ingest(cfg: DataConfig, split: SplitConfig = LEAVE_ONE_OUT, forgotten: Set[str] = frozenset()) -> Ingested:
    """Read, check, order and number the actions of all users and of all queries; read and clean all items.

    `forgotten` holds hashes (see `hash_user`) of users who left: their rows are refused, without a text in REJECTS.

    A query is refused where an interaction is, and as a whole where its user is among the interactions or has a query
    in the other file, where its last row, the target, was refused, or where nothing stands before that. Ratings and
    minimum counts leave it alone.

    Raises UserError for a missing file or column, and DataRefused with REJECTS when more than `max_bad` of the rows are
    bad, or no action, or no query of a file, is left.
    """
    item_columns = names(cfg)[1]
    asked = split.query_files()
    refused = _Refused(short_names([*cfg.sources(), *split.sources()]))
    items = _read_items(cfg, item_columns, refused)
    actions = _read_actions(cfg, listed(cfg.interactions), "interaction", refused)
    queries = _read_queries(cfg, asked, refused)
    actions = _without_forgotten(actions, forgotten, "interaction", refused)
    queries = _without_forgotten(queries, forgotten, "query", refused)
    rows = {
        kind: len(good) + refused.count(kind)
        for kind, good in (("item", items), ("interaction", actions), ("query", queries))
    }
    for kind, files in (("item", cfg.items), ("interaction", cfg.interactions)):
        if not rows[kind]:
            paths = [str(path) for _, path in listed(files)]
            raise UserError(f"{shortened(paths, 3, 300)}: no row, only the names of columns. Give a file with rows.")
    words = {
        f"{column} {word!r} in {kind} rows": count
        for kind, frame in (("interaction", actions), ("item", items), ("query", queries))
        for column, name in (*((name, name) for name in _IDS), ("title", "raw_title"))
        if name in frame.columns
        for word, count in missing_words(frame[name].cast(pl.String)).items()
    }
    if words:
        found = shortened(f"{name}: {count:,}" for name, count in words.items())
        refused.warn(
            f"Words that often stand for a missing value are taken as they are ({found}). Leave these cells empty if "
            "nothing is known there."
        )
    items, listings = _clean_items(items, len(item_columns.text), refused)
    actions = _checked(_named(actions, cfg), cfg, "interaction", refused)
    _warn_of_twins(actions, listings, "interaction", refused)
    added = _unlisted_items(actions, listings) if cfg.unknown_items == "keep" else listings.clear()
    listings = pl.concat([listings, added])
    actions = _give_domains(actions, listings, "interaction", refused)
    actions = _without_duplicates(actions, cfg, "interaction", refused)
    refused.check_share(rows, cfg.max_bad)
    if cfg.min_rating is not None:
        low = pl.col("stars").is_null() | (pl.col("stars") < cfg.min_rating)
        actions = refused.take(actions, pl.when(low).then(pl.lit("rating_below_minimum")), "interaction")
    actions = _drop_rare(actions, cfg.min_user, cfg.min_item, refused)
    if not len(actions):
        why = refused.commonest("interaction")
        raise refused.failure(f"No action is left of {rows['interaction']} ({why}). Correct the files or [data].")
    actions = _in_order(actions, cfg)
    queries = _clean_queries(queries, cfg, listings, actions["user_id"], refused)
    refused.check_share(rows, cfg.max_bad)
    for role in asked:
        if role not in queries["split"]:
            why = refused.commonest("query") or "the files are empty"
            raise refused.failure(f"No {role} query is left ({why}). Correct the files or [split].")
    items = pl.concat([items, added], how="diagonal")
    _warn_of_domains(actions, items, refused)
    figures = _figures(actions, items, queries, cfg, rows, len(added), refused) | {"words_for_missing": words}
    return Ingested(
        to_arrow(actions, INTERACTIONS),
        to_arrow(items, ITEMS),
        to_arrow(queries, QUERIES),
        refused.table(),
        figures,
        tuple(refused.warnings),
    )


def names(cfg: DataConfig) -> tuple[ColumnsConfig, ItemColumnsConfig, str]:
    """Return the columns of the interactions, the columns of the items and the unit of times, by the format."""
    if cfg.format != BY_COLUMNS:
        known = FORMATS[cfg.format]
        columns = ColumnsConfig(
            user_id=known.user_id, item_id=known.item_id, timestamp=known.timestamp, rating=known.rating
        )
        further = (cfg.item_columns or cfg.columns).text
        return columns, ItemColumnsConfig(item_id=known.item_id, text=further), known.timestamp_unit
    return cfg.columns, cfg.item_columns or _as_item_columns(cfg.columns), cfg.timestamp_unit


class _Refused:
    """The refused rows: taken out of a frame, counted, and made into REJECTS at the end."""

    def __init__(self, files: dict[Path, str]) -> None:
        self._files = files
        self._parts: list[pl.DataFrame] = []
        self._reasons: dict[str, dict[str, int]] = {"interaction": {}, "item": {}, "query": {}}
        self.warnings: list[str] = []

    def take(self, frame: pl.DataFrame, reason: pl.Expr, kind: str) -> pl.DataFrame:
        """Take out the rows for which `reason` is not null; return the others."""
        reasons = frame.select(reason=reason)["reason"].cast(pl.String)
        if reasons.null_count() == len(reasons):
            return frame
        bad = frame.with_columns(reasons.alias("reason")).filter(reasons.is_not_null())
        shown = [name for name in frame.columns if name.startswith("raw_")]
        text = pl.struct(pl.col(name).alias(name.removeprefix("raw_")) for name in shown).struct.json_encode()
        self.add(bad.select("file", "line", "reason", row=text.str.slice(0, readers.ROW_CHARACTERS)), kind)
        return frame.filter(reasons.is_null())

    def add(self, bad: pl.DataFrame, kind: str) -> None:
        """Keep rows of file (number), line, reason, row."""
        self._parts.append(bad.select("file", "line", pl.lit(kind).alias("kind"), "reason", "row"))
        for reason, count in bad["reason"].value_counts().iter_rows():
            self._reasons[kind][reason] = self._reasons[kind].get(reason, 0) + count

    def warn(self, sentence: str) -> None:
        """Keep what a person should know of the data, whether the ingest stops or not."""
        self.warnings.append(sentence)

    def count(self, kind: str, filtered: bool = True) -> int:
        """Return how many rows were refused, or only the bad ones among them."""
        return sum(n for reason, n in self._reasons[kind].items() if filtered or reason not in FILTERED)

    def reasons(self, filtered: bool) -> dict[str, int]:
        """Return {reason: rows} over both kinds, of the filtered rows or of the bad ones."""
        found: dict[str, int] = {}
        for reasons in self._reasons.values():
            for reason, count in reasons.items():
                if (reason in FILTERED) == filtered:
                    found[reason] = found.get(reason, 0) + count
        return dict(sorted(found.items()))

    def commonest(self, kind: str) -> str:
        """Name the commonest reasons with their counts."""
        ranked = sorted(self._reasons[kind].items(), key=lambda each: (-each[1], each[0]))
        return ", ".join(f"{reason} {count}" for reason, count in ranked[:4])

    def check_share(self, rows: dict[str, int], most: float) -> None:
        """Stop when more than the share `most` of the interactions, the items or the queries is bad."""
        for kind, total in rows.items():
            bad = self.count(kind, filtered=False)
            if bad > most * total:
                first = self._frame().filter(kind=kind).row(0, named=True)
                raise self.failure(
                    f"{bad} of {total} {kind} rows are bad ({bad / total:.1%}, [data] max_bad allows {most:.1%}): "
                    f"{self.commonest(kind)}. The first is {first['file']} line {first['line']}: {first['reason']}. "
                    "Correct the files or [data] columns, or raise max_bad."
                )

    def failure(self, message: str) -> DataRefused:
        """Return the error of an ingest that stops, with the rows refused so far."""
        sentences = [message, *self.warnings, "`edt show rejects` shows the refused rows."]
        return DataRefused(" ".join(sentences), {"rejects": self.table()})

    def table(self) -> pa.Table:
        """Return REJECTS in the order of the files and their lines."""
        return to_arrow(self._frame(), REJECTS)

    def _frame(self) -> pl.DataFrame:
        files = dict(enumerate(self._files.values()))
        return (
            pl.concat([_no_rejects(), *self._parts])
            .sort("file", "line", "reason", maintain_order=True)
            .with_columns(pl.col("file").replace_strict(files, return_dtype=pl.String))
        )

    def number(self, path: Path) -> int:
        """Return the file's index among all files."""
        return list(self._files).index(path)


def _no_rejects() -> pl.DataFrame:
    texts = dict.fromkeys(("kind", "reason", "row"), pl.String)
    return pl.DataFrame(schema={"file": _FILE, "line": pl.Int64, **texts})


def _as_item_columns(columns: ColumnsConfig) -> ItemColumnsConfig:
    given = {key: getattr(columns, key) for key in ItemColumnsConfig.model_fields if key in columns.model_fields_set}
    return ItemColumnsConfig(**given)


def _read_items(cfg: DataConfig, columns: ItemColumnsConfig, refused: _Refused) -> pl.DataFrame:
    wanted = {"item_id": columns.item_id, "domain": columns.domain, "title": columns.title}
    wanted |= {f"text_{number}": name for number, name in enumerate(columns.text)}
    named = columns.model_fields_set | wanted.keys() - {"title", "domain"}
    parts = []
    for domain, path in listed(cfg.items):
        needed = named | ({"domain"} if domain is None else set())
        parts.append(_read_file(path, domain, wanted, needed, "item", refused))
    return _one_frame(parts, wanted)


def _read_actions(cfg: DataConfig, files: list[tuple[str | None, Path]], kind: str, refused: _Refused) -> pl.DataFrame:
    columns, _, unit = names(cfg)
    is_timed = cfg.times == "real"
    wanted = {key: getattr(columns, key) for key in ("user_id", "item_id", "domain", "timestamp", "position", "rating")}
    needed = columns.model_fields_set | {"user_id", "item_id", "timestamp"}
    if not is_timed:
        del wanted["timestamp"]
    if kind == "query":
        needed -= {"rating"}
    parts = []
    for domain, path in files:
        rows = _read_file(path, domain, wanted, needed, kind, refused)
        time = read_times(rows["raw_timestamp"], unit) if is_timed else pl.lit(NO_TIME).dt.cast_time_unit("ms")
        parts.append(rows.with_columns(time.alias("time")))
    return _one_frame(parts, wanted)


def _read_queries(cfg: DataConfig, asked: dict[str, list[Path]], refused: _Refused) -> pl.DataFrame:
    """Return the rows of the files of each role, which is their `split`."""
    parts = [
        _read_actions(cfg, [(None, path) for path in files], "query", refused).with_columns(split=pl.lit(role))
        for role, files in asked.items()
    ]
    return pl.concat(parts, how="diagonal_relaxed") if parts else pl.DataFrame()


def _read_file(
    path: Path, domain: str | None, wanted: dict[str, str], needed: Set[str], kind: str, refused: _Refused
) -> pl.DataFrame:
    """Read one file into raw_<our name> of its columns, ids and domain as they are compared, file (number) and line."""
    wanted = {ours: theirs for ours, theirs in wanted.items() if ours != "domain" or domain is None}
    there = readers.columns_of(path)
    for ours, theirs in wanted.items():
        if ours in needed and theirs not in there:
            raise UserError(_no_column(path, ours, theirs, there, kind))
    found = {ours: theirs for ours, theirs in wanted.items() if theirs in there}
    rows = readers.read(path, list(dict.fromkeys(found.values())))
    file = pl.lit(refused.number(path), _FILE).alias("file")
    if len(rows.bad):
        refused.add(rows.bad.with_columns(file), kind)
    frame = rows.good.select([pl.col(theirs).alias(f"raw_{ours}") for ours, theirs in found.items()] + ["line", file])
    if domain is not None:
        frame = frame.with_columns(raw_domain=pl.lit(domain))
    ids = [name for name in _IDS if f"raw_{name}" in frame.columns]
    return frame.with_columns(read_ids(frame[f"raw_{name}"]).alias(name) for name in ids)


def _one_frame(parts: list[pl.DataFrame], wanted: dict[str, str]) -> pl.DataFrame:
    frame = pl.concat(parts, how="diagonal_relaxed")
    columns = [f"raw_{ours}" for ours in wanted] + [name for name in _IDS if name in wanted]
    missing = [name for name in columns if name not in frame.columns]
    return frame.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)


def _no_column(path: Path, ours: str, theirs: str, there: list[str], kind: str) -> str:
    nearest = get_close_matches(theirs.lower(), [name.lower() for name in there], n=1, cutoff=0.5)
    near = next((name for name in there if [name.lower()] == nearest), None)
    section = "[data.item_columns]" if kind == "item" else "[data.columns]"
    key = "text" if ours.startswith("text_") else ours
    hint = f"; the nearest is '{near}'" if near else ""
    also = ", or give one file per domain" if ours == "domain" else ""
    return f"{path}: no column '{theirs}' for {key}{hint}. It has {shortened(there)}. Set {section} {key}{also}."


def _clean_items(items: pl.DataFrame, texts: int, refused: _Refused) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the items, one row each with title and text, and every domain that each item is listed in."""
    _check_domains(items)
    reason = pl.when(pl.col("item_id").is_null()).then(pl.lit("no_item")).when(pl.col("domain").is_null())
    items = refused.take(items, reason.then(pl.lit("no_domain")), "item")
    listings = items.select("item_id", "domain").unique(maintain_order=True)
    again = ~pl.col("item_id").is_first_distinct()
    elsewhere = pl.col("domain") != pl.col("domain").first().over("item_id")
    reason = pl.when(again & elsewhere).then(pl.lit("item_in_two_domains")).when(again)
    items = refused.take(items, reason.then(pl.lit("duplicate_item")), "item")
    further = [_folded(items[f"raw_text_{number}"]).alias(f"text_{number}") for number in range(texts)]
    items = items.with_columns(_folded(items["raw_title"]).alias("title"), *further)
    text = pl.concat_str(["title", *(part.name for part in further)], separator=" ", ignore_nulls=True)
    return items.with_columns(text=text.replace("", None)), listings


def _folded(texts: pl.Series) -> pl.Series:
    """Return texts without HTML entities, markup, scripts and repeated white space; null where nothing is left."""
    texts = texts.cast(pl.String)
    escaped = texts.str.contains("&", literal=True).fill_null(False).arg_true()
    if len(escaped):  # twice: catalogues hold &amp;quot; too
        texts = texts.scatter(escaped, [html.unescape(html.unescape(text)) for text in texts.gather(escaped)])
    texts = texts.str.replace_all(_MARKUP, " ").str.replace_all(r"[\s\x00-\x1f\x7f]+", " ")
    return texts.str.strip_chars().replace("", None)


def _named(actions: pl.DataFrame, cfg: DataConfig) -> pl.DataFrame:
    """Read ratings, and say in `order` what decides among actions at one time."""
    texts = actions["raw_rating"].cast(pl.String).str.strip_chars().replace("", None)
    stars = actions["raw_rating"].cast(pl.Float64, strict=False).fill_nan(None)
    actions = actions.with_columns(stars.alias("stars"), texts.set(is_missing_word(texts), None).alias("rating_text"))
    return actions.with_columns(_order(actions, cfg).alias("order"))


def _without_forgotten(actions: pl.DataFrame, forgotten: Set[str], kind: str, refused: _Refused) -> pl.DataFrame:
    if not forgotten or not len(actions):
        return actions
    users = actions["user_id"].drop_nulls().unique()
    left = users.filter(pl.Series([hash_user(user) in forgotten for user in users], dtype=pl.Boolean))
    is_left = pl.col("user_id").is_in(left.implode()).fill_null(False)
    refused.add(actions.filter(is_left).select("file", "line", reason=pl.lit(FORGOTTEN), row=pl.lit("")), kind)
    return actions.filter(~is_left)


def _checked(actions: pl.DataFrame, cfg: DataConfig, kind: str, refused: _Refused) -> pl.DataFrame:
    """Check ids, times, positions and ratings."""
    reason = (
        pl.when(pl.col("user_id").is_null()).then(pl.lit("no_user"))
        .when(pl.col("item_id").is_null()).then(pl.lit("no_item"))
        .when(pl.col("time").is_null()).then(pl.lit("bad_time"))
        .when(~pl.col("time").is_between(EARLIEST, LATEST, closed="left")).then(pl.lit("impossible_time"))
        .when(pl.col("order").is_null() & (cfg.times == "order")).then(pl.lit("bad_position"))
        .when(pl.col("rating_text").is_not_null() & ~pl.col("stars").is_finite().fill_null(False))
        .then(pl.lit("bad_rating"))
    )  # fmt: skip
    if cfg.times == "real":
        _warn_of_times(actions, names(cfg)[2], refused)
    return refused.take(actions, reason, kind).drop("rating_text")


def _warn_of_times(actions: pl.DataFrame, unit: str, refused: _Refused) -> None:
    """Name a time that is outside of what is taken, and how it was read."""
    outside = actions.filter(~pl.col("time").is_between(EARLIEST, LATEST, closed="left"))
    if len(outside):
        raw = outside["raw_timestamp"][0]
        refused.warn(
            f"{len(outside):,} times are outside of {EARLIEST:%Y} to {LATEST:%Y}, the first of them {str(raw)[:60]!r}, "
            f'read as {day_of(outside["time"][:1])} ([data] timestamp_unit = "{unit}").'
        )


def _order(actions: pl.DataFrame, cfg: DataConfig) -> pl.Expr:
    """Return what actions at one time are sorted by."""
    positions = actions["raw_position"].cast(pl.Float64, strict=False).fill_nan(None)
    ties = cfg.ties
    if ties == "auto":
        ties = "position" if positions.count() else "file"
    if ties == "position" and not positions.count():
        raise UserError(
            "[data] ties = 'position', but the interactions or queries have none. Set [data.columns] position."
        )
    return {
        "position": pl.lit(positions),
        "file": pl.int_range(pl.len()),
        "shuffle": pl.concat_str("user_id", "item_id", separator="\n").hash(cfg.seed),
    }[ties]


def _without_duplicates(actions: pl.DataFrame, cfg: DataConfig, kind: str, refused: _Refused) -> pl.DataFrame:
    """Refuse a user's second action on an item at the same time, or at the same place where there are no times."""
    place = "time" if cfg.times == "real" else "order"
    again = ~pl.struct("user", "item", place).is_first_distinct()
    return refused.take(actions, pl.when(again).then(pl.lit("duplicate")), kind)


def _unlisted_items(actions: pl.DataFrame, listings: pl.DataFrame) -> pl.DataFrame:
    """Return item_id and domain of the items that only the actions know."""
    with_domain = actions.filter(pl.col("domain").is_not_null())
    new = with_domain.join(listings, on="item_id", how="anti", maintain_order="left").select("item_id", "domain")
    new = new.unique("item_id", keep="first", maintain_order=True)
    _check_domains(new)
    return new


def _warn_of_twins(actions: pl.DataFrame, listings: pl.DataFrame, kind: str, refused: _Refused) -> None:
    """Name an item that the actions and the items file write in two ways."""
    named = actions["item_id"].drop_nulls().unique(maintain_order=True)
    unknown = named.filter(~named.is_in(listings["item_id"].unique().implode()))
    if twins := written_otherwise(unknown, listings["item_id"]):
        (ours, theirs), rows = next(iter(twins.items())), actions["item_id"].is_in(list(twins)).sum()
        refused.warn(
            f"{rows:,} {kind} rows name an item that the items file writes otherwise: {ours!r} here, {theirs!r} there. "
            "Write each id in one way."
        )


def _give_domains(actions: pl.DataFrame, listings: pl.DataFrame, kind: str, refused: _Refused) -> pl.DataFrame:
    """Give each action its item's domain and the numbers of user and item."""
    first = listings.unique("item_id", keep="first", maintain_order=True).rename({"domain": "kept"})
    actions = actions.join(first.with_row_index("item"), on="item_id", how="left", maintain_order="left")
    unlisted = pl.lit(False)
    if (actions["domain"] != actions["kept"]).any():
        listings = listings.with_columns(listed=True)
        actions = actions.join(listings, on=["item_id", "domain"], how="left", maintain_order="left")
        unlisted = pl.col("domain").is_not_null() & pl.col("listed").is_null()
    reason = (
        pl.when(pl.col("item").is_null()).then(pl.lit("unknown_item"))
        .when(unlisted).then(pl.lit("domain_mismatch"))
    )  # fmt: skip
    actions = refused.take(actions, reason, kind)
    users = pl.Enum(actions["user_id"].unique().sort())
    return actions.with_columns(pl.col("user_id").cast(users).to_physical().alias("user"), domain=pl.col("kept"))


def _clean_queries(
    queries: pl.DataFrame, cfg: DataConfig, listings: pl.DataFrame, trained: pl.Series, refused: _Refused
) -> pl.DataFrame:
    """Check the rows of queries as those of interactions are, then each query as a whole; return them in order.

    trained: the users of the interactions, each as often as may be.
    """
    if queries.is_empty():
        return frame_of(QUERIES.tables[""].empty_table())
    queries = _named(queries, cfg).sort("time", "order", "file", "line", nulls_last=True)
    from_end = pl.len() - 1 - pl.int_range(pl.len())
    queries = queries.with_columns(is_target=(from_end == 0).over("user_id", "split"))
    is_in_both = pl.col("user_id").is_not_null() & (pl.col("split").n_unique().over("user_id") > 1)
    reason = (
        pl.when(pl.col("user_id").is_in(trained.unique().implode())).then(pl.lit("user_in_interactions"))
        .when(is_in_both).then(pl.lit("user_in_both_queries"))
    )  # fmt: skip
    queries = _checked(refused.take(queries, reason, "query"), cfg, "query", refused)
    _warn_of_twins(queries, listings, "query", refused)
    queries = _give_domains(queries, listings, "query", refused)
    queries = _without_duplicates(queries, cfg, "query", refused)
    reason = (
        pl.when(~pl.col("is_target").any().over("user_id")).then(pl.lit("target_refused"))
        .when(pl.len().over("user_id") < 2).then(pl.lit("no_history"))
    )  # fmt: skip
    return _in_order(refused.take(queries, reason, "query"), cfg)


def _check_domains(items: pl.DataFrame) -> None:
    if items["domain"].eq(ALL).any():
        raise UserError(f"A domain cannot be called '{ALL}', the name for all domains together. Rename it in the data.")


def _drop_rare(actions: pl.DataFrame, min_user: int, min_item: int, refused: _Refused) -> pl.DataFrame:
    """Drop users and items with too few actions, again and again until all that is left has enough."""
    users, items = actions["user"].to_numpy(), actions["item"].to_numpy()
    left, reason = np.ones(len(actions), bool), np.zeros(len(actions), np.int8)
    while True:
        rare_user = left & (np.bincount(users[left], minlength=users.max(initial=0) + 1)[users] < min_user)
        rare_item = left & ~rare_user & (np.bincount(items[left], minlength=items.max(initial=0) + 1)[items] < min_item)
        if not (rare_user.any() or rare_item.any()):
            break
        reason[rare_user], reason[rare_item] = 1, 2
        left &= ~(rare_user | rare_item)
    reasons = {0: None, 1: "user_below_minimum", 2: "item_below_minimum"}
    why = pl.Series(reason).replace_strict(reasons, return_dtype=pl.String)
    return refused.take(actions, pl.lit(why), "interaction")


def _in_order(actions: pl.DataFrame, cfg: DataConfig) -> pl.DataFrame:
    """Sort by user, time and what decides among actions at one time, and number each user's actions."""
    actions = actions.sort("user", "time", "order", "file", "line", nulls_last=True)
    return actions.with_columns(
        pl.int_range(pl.len(), dtype=pl.Int32).over("user").alias("position"),
        timestamp=pl.col("time"),
        rating=pl.col("stars").cast(pl.Float32),
    )


def _warn_of_domains(actions: pl.DataFrame, items: pl.DataFrame, refused: _Refused) -> None:
    """Name what a model for several domains cannot work with."""
    of_domain = dict(items["domain"].value_counts().sort("domain").iter_rows())
    if len(of_domain) == 1:
        refused.warn(f"All items are of one domain, {next(iter(of_domain))!r}: nothing can be carried to another.")
    for what, domains in (
        ("one item, which every ranking puts first", [domain for domain, count in of_domain.items() if count == 1]),
        ("no action", sorted(of_domain.keys() - set(actions["domain"].unique()))),
    ):
        if domains:
            refused.warn(f"Domains with {what}: {shortened(map(repr, domains))}.")


def _figures(
    actions: pl.DataFrame, items: pl.DataFrame, queries: pl.DataFrame, cfg: DataConfig, rows: dict[str, int],
    added: int, refused: _Refused,
) -> dict[str, Any]:  # fmt: skip
    """Return what the manifest tells about the run."""
    tied = (pl.col("time") == pl.col("time").shift()) & (pl.col("user") == pl.col("user").shift())
    is_timed = cfg.times == "real"

    def by_domain(frame: pl.DataFrame) -> dict[str, int]:
        return dict(sorted(frame["domain"].value_counts().iter_rows()))

    return {
        "interaction_rows": rows["interaction"],
        "item_rows": rows["item"],
        "interactions": len(actions),
        "items": len(items),
        "items_added": added,
        "users": actions["user"].n_unique(),
        "interactions_by_domain": by_domain(actions),
        "items_by_domain": by_domain(items),
        "items_without_text": items["text"].null_count(),
        "actions_at_the_time_of_the_one_before": int(actions.select(tied.sum()).item() or 0) if is_timed else 0,
        "actions_without_a_time": 0 if is_timed else len(actions),
        "query_rows": rows["query"],
        "queries": dict(sorted(queries.group_by("split").agg(pl.col("user_id").n_unique()).iter_rows())),
        "bad": refused.reasons(filtered=False),
        "filtered": refused.reasons(filtered=True),
    }
