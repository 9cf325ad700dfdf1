"""Turn raw files into clean interactions and items, with a reason for each row that is refused."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.errors import UserError, shortened
from data_lake.schemas import INTERACTIONS, ITEMS, QUERIES
from pipeline.config import DataConfig, SplitConfig, listed, short_names
from pipeline.frames import frame_of, to_arrow
from pipeline.ingest import readers
from pipeline.ingest.check_actions import ActionChecks, Catalogue
from pipeline.ingest.clean_items import clean_items
from pipeline.ingest.ids import missing_words
from pipeline.ingest.inputs import IDS, Files, has_positions, in_order_by, read_actions, read_items, read_positions
from pipeline.ingest.minimum_counts import DUPLICATE, ITEM, RATING, REASONS, USER, drop_rare, sort_part
from pipeline.ingest.parts import Parts
from pipeline.ingest.refused import Refused

KINDS = ("interaction", "item", "query")


@dataclass(frozen=True)
class Ingested:
    """Tables of the schemas INTERACTIONS, ITEMS, QUERIES and REJECTS, and the figures for the manifest.

    Each row of the files is in exactly one of them: rows = interactions + rejects of the kind "interaction",
    rows = queries + rejects of the kind "query", and rows = items + rejects of the kind "item" (less `items_added`,
    where `unknown_items` is "keep"). Interactions and rejects may be more than memory holds: they are read from the
    disk, a table at a time, once. Each table of interactions holds all actions of its users.
    """

    interactions: Iterator[pa.Table]
    items: pa.Table
    queries: pa.Table
    rejects: Iterator[pa.Table]
    figures: dict[str, Any]
    warnings: tuple[str, ...]
    """What a person should know of the data that was taken, a sentence each."""


class _Words:
    """How often words stand in the rows that may mean a missing value."""

    def __init__(self) -> None:
        self._counts = {kind: Counter[str]() for kind in KINDS}

    def add(self, rows: pl.DataFrame, kind: str, texts: Sequence[str]) -> None:
        for name in texts:
            for word, count in missing_words(rows[name].cast(pl.String)).items():
                self._counts[kind][f"{name.removeprefix('raw_')} {word!r} in {kind} rows"] += count

    def counts(self) -> dict[str, int]:
        return {name: count for counts in self._counts.values() for name, count in counts.items()}


def ingest(cfg: DataConfig, split: SplitConfig, forgotten: Set[str], disk: Path, actions_per_part: int) -> Ingested:
    """Read, check, order and number the actions of all users and of all queries; read and clean all items.

    `forgotten` holds hashes (see `hash_user`) of users who left: their rows are refused, without a text in REJECTS.
    `disk` is an empty folder for what is not held in memory: actions are dealt into as many parts, by a hash of their
    user, as there are times `actions_per_part` rows in the files, and a part is in memory at a time.

    A query is refused where an interaction is, and as a whole where its user is among the interactions or has a query
    in the other file, where its last row, the target, was refused, or where nothing stands before that. Ratings and
    minimum counts leave it alone.

    Raises UserError for a missing file or column, and DataRefused with REJECTS when more than `max_bad` of the rows are
    bad, or no action, or no query of a file, is left.
    """
    refused = Refused(short_names([*cfg.sources(), *split.sources()]), disk / "refused")
    files, words = listed(cfg.interactions), _Words()
    items = read_items(cfg, refused)
    words.add(items, "item", ("item_id", "domain", "raw_title"))
    items, listings = clean_items(items, refused)

    is_positioned = cfg.ties in ("auto", "position") and has_positions(cfg, files)
    added = listings.clear()
    if cfg.unknown_items == "keep":
        added = _unlisted(cfg, files, Catalogue(listings), forgotten, is_positioned, disk / "first look")
    catalogue = Catalogue(pl.concat([listings, added]))
    checks = ActionChecks(cfg, "interaction", forgotten, refused)
    parts = Parts(disk / "actions", -(-sum(readers.about_rows(path) for _, path in files) // actions_per_part) or 1)
    for actions in read_actions(cfg, files, "interaction", refused):
        kept = checks.without_forgotten(actions)
        words.add(kept, "interaction", IDS)
        kept = checks.give_items(checks.check(in_order_by(kept, cfg, is_positioned)), catalogue)
        parts.add(kept.with_columns(_unless_same(kept, "user_id"), _unless_same(kept, "item_id")))
    queries, query_checks = _read_queries(cfg, split, forgotten, words, refused)
    for kind, given in (("item", cfg.items), ("interaction", cfg.interactions)):
        if not refused.rows[kind]:
            paths = [str(path) for _, path in listed(given)]
            raise UserError(f"{shortened(paths, 3, 300)}: no row, only the names of columns. Give a file with rows.")
    if words.counts():
        found = shortened(f"{name}: {count:,}" for name, count in words.counts().items())
        refused.warn(
            f"Words that often stand for a missing value are taken as they are ({found}). Leave these cells empty if "
            "nothing is known there."
        )
    checks.warn(listings["item_id"])

    of_item = np.zeros(len(catalogue.items), np.int64)
    for part in range(parts.count):
        of_item += sort_part(parts, part, cfg, len(of_item))
        _refuse(parts, part, catalogue, refused, (DUPLICATE, RATING))
    refused.check_share(cfg.max_bad)
    of_item = drop_rare(parts, of_item, cfg.min_user, cfg.min_item)
    for part in range(parts.count):
        _refuse(parts, part, catalogue, refused, (USER, ITEM))
    if not of_item.any():
        why = refused.commonest("interaction")
        raise refused.failure(
            f"No action is left of {refused.rows['interaction']} ({why}). Correct the files or [data]."
        )
    queries = _clean_queries(queries, cfg, query_checks, catalogue, parts, refused)
    refused.check_share(cfg.max_bad)
    for role in split.query_files():
        if role not in queries["split"]:
            why = refused.commonest("query") or "the files are empty"
            raise refused.failure(f"No {role} query is left ({why}). Correct the files or [split].")
    items = pl.concat([items, added], how="diagonal")
    by_domain = catalogue.items.select("domain", actions=of_item).group_by("domain").agg(pl.col("actions").sum())
    actions_by_domain = dict(by_domain.filter(pl.col("actions") > 0).sort("domain").iter_rows())
    _warn_of_domains(actions_by_domain, items, refused)
    return Ingested(
        (_interactions(parts, part, catalogue) for part in range(parts.count)),
        to_arrow(items, ITEMS),
        to_arrow(queries, QUERIES),
        refused.tables(),
        {
            "interaction_rows": refused.rows["interaction"],
            "item_rows": refused.rows["item"],
            "interactions": int(of_item.sum()),
            "items": len(items),
            "items_added": len(added),
            **_count_users(parts, cfg.times == "real"),
            "interactions_by_domain": actions_by_domain,
            "items_by_domain": dict(sorted(items["domain"].value_counts().iter_rows())),
            "items_without_text": items["text"].null_count(),
            "actions_without_a_time": 0 if cfg.times == "real" else int(of_item.sum()),
            "query_rows": refused.rows["query"],
            "queries": dict(sorted(queries.group_by("split").agg(pl.col("user_id").n_unique()).iter_rows())),
            "bad": refused.reasons(filtered=False),
            "filtered": refused.reasons(filtered=True),
            "words_for_missing": words.counts(),
        },
        tuple(refused.warnings),
    )


def _unlisted(
    cfg: DataConfig, files: Files, catalogue: Catalogue, forgotten: Set[str], is_positioned: bool, disk: Path
) -> pl.DataFrame:
    """Return item_id and domain of the items that only the actions know: those of their rows that are good."""
    refused = Refused(short_names(cfg.sources()), disk)
    checks, found = ActionChecks(cfg, "interaction", forgotten, refused), []
    for actions in read_actions(cfg, files, "interaction", refused):
        good = checks.check(in_order_by(checks.without_forgotten(actions), cfg, is_positioned))
        found.append(catalogue.unlisted(good))
    return pl.concat(found).unique("item_id", keep="first", maintain_order=True)


def _unless_same(rows: pl.DataFrame, name: str) -> pl.Expr:
    """Return an id's raw text, null where it is the id itself, which spares the disk."""
    raw = f"raw_{name}"
    return pl.when(pl.col(raw) != pl.col(name)).then(raw).alias(raw) if rows[raw].dtype == pl.String else pl.col(raw)


def _refuse(parts: Parts, part: int, catalogue: Catalogue, refused: Refused, reasons: Sequence[int]) -> None:
    """Refuse the rows of a part that go for one of these reasons."""
    why = parts.load(part, "why")
    goes = np.isin(why, reasons)
    if not goes.any():
        return
    rows = parts.read(part)[parts.load(part, "row")[goes]]
    texts = {"user_id": pl.col("user_id"), "item_id": pl.lit(catalogue.items["item_id"].gather(rows["item"]))}
    as_read = [
        pl.coalesce(f"raw_{name}", text).alias(f"raw_{name}") if rows[f"raw_{name}"].dtype == pl.String
        else pl.col(f"raw_{name}")
        for name, text in texts.items()
    ]  # fmt: skip
    reason = pl.Series(why[goes]).replace_strict(REASONS, return_dtype=pl.String)
    refused.take(rows.with_columns(as_read), pl.lit(reason), "interaction")


def _interactions(parts: Parts, part: int, catalogue: Catalogue) -> pa.Table:
    """Return INTERACTIONS of the rows of a part that stay."""
    stays = parts.load(part, "why") == 0
    if not stays.any():
        return INTERACTIONS.tables[""].empty_table()
    rows = parts.read(part, ("user_id", "item", "time", "stars"))[parts.load(part, "row")[stays]]
    user = parts.load(part, "user")[stays]
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    position = np.arange(len(user)) - np.repeat(starts, np.diff(starts, append=len(user)))
    items = catalogue.items[rows["item"]]
    return to_arrow(
        rows.select(
            "user_id",
            items["item_id"],
            items["domain"],
            timestamp="time",
            position=pl.Series(position, dtype=pl.Int32),
            rating=pl.col("stars").cast(pl.Float32),
        ),
        INTERACTIONS,
    )


def _count_users(parts: Parts, is_timed: bool) -> dict[str, int]:
    """Count the users, and the actions that share user and time with the one before."""
    users = tied = 0
    for part in range(parts.count):
        stays = parts.load(part, "why") == 0
        user, time = parts.load(part, "user")[stays], parts.load(part, "time")[stays]
        is_same = user[1:] == user[:-1]
        users += len(user) - int(is_same.sum())
        tied += int((is_same & (time[1:] == time[:-1])).sum())
    return {"users": users, "actions_at_the_time_of_the_one_before": tied if is_timed else 0}


def _read_queries(
    cfg: DataConfig, split: SplitConfig, forgotten: Set[str], words: _Words, refused: Refused
) -> tuple[pl.DataFrame, ActionChecks]:
    """Return the rows of the files of each role, which is their `split`, and their checks."""
    checks = ActionChecks(cfg, "query", forgotten, refused)
    of_role = [
        rows.with_columns(split=pl.lit(role))
        for role, files in split.query_files().items()
        for rows in read_actions(cfg, [(None, path) for path in files], "query", refused)
    ]
    if not of_role:
        return pl.DataFrame(), checks
    queries = checks.without_forgotten(pl.concat(of_role, how="diagonal_relaxed"))
    words.add(queries, "query", IDS)
    return queries, checks


def _clean_queries(
    queries: pl.DataFrame, cfg: DataConfig, checks: ActionChecks, catalogue: Catalogue, parts: Parts, refused: Refused
) -> pl.DataFrame:
    """Check the rows of queries as those of interactions are, then each query as a whole; return them in order."""
    if queries.is_empty():
        return frame_of(QUERIES.tables[""].empty_table())
    queries = in_order_by(queries, cfg, read_positions(queries["raw_position"]).count() > 0)
    by = [name for name in ("order",) if name in queries.columns]
    queries = queries.sort("time", *by, "file", "line", nulls_last=True)
    from_end = pl.len() - 1 - pl.int_range(pl.len())
    queries = queries.with_columns(is_target=(from_end == 0).over("user_id", "split"))
    is_in_both = pl.col("user_id").is_not_null() & (pl.col("split").n_unique().over("user_id") > 1)
    reason = (
        pl.when(pl.col("user_id").is_in(_trained(queries["user_id"], parts).implode()))
        .then(pl.lit("user_in_interactions"))
        .when(is_in_both).then(pl.lit("user_in_both_queries"))
    )  # fmt: skip
    queries = checks.check(refused.take(queries, reason, "query"))
    queries = checks.give_items(queries, catalogue)
    checks.warn(catalogue.listings["item_id"])
    place = ["time"] if cfg.times == "real" else by
    if place:
        again = ~pl.struct("user_id", "item", *place).is_first_distinct()
        queries = refused.take(queries, pl.when(again).then(pl.lit("duplicate")), "query")
    reason = (
        pl.when(~pl.col("is_target").any().over("user_id")).then(pl.lit("target_refused"))
        .when(pl.len().over("user_id") < 2).then(pl.lit("no_history"))
    )  # fmt: skip
    queries = refused.take(queries, reason, "query").sort("user_id", "time", *by, "file", "line", nulls_last=True)
    return queries.with_columns(
        pl.int_range(pl.len(), dtype=pl.Int32).over("user_id").alias("position"),
        domain=catalogue.items["domain"].gather(queries["item"]),
        timestamp=pl.col("time"),
        rating=pl.col("stars").cast(pl.Float32),
    )


def _trained(users: pl.Series, parts: Parts) -> pl.Series:
    """Return those of the users who have an action that stays."""
    asked, found = users.unique(), []
    for part in range(parts.count):
        stays = parts.load(part, "why") == 0
        if stays.any():
            trained = parts.read(part, ["user_id"])["user_id"][parts.load(part, "row")[stays]]
            found.append(asked.filter(asked.is_in(trained.unique().implode())))
    return pl.concat(found)


def _warn_of_domains(actions_by_domain: Mapping[str, int], items: pl.DataFrame, refused: Refused) -> None:
    """Name what a model for several domains cannot work with."""
    of_domain = dict(items["domain"].value_counts().sort("domain").iter_rows())
    if len(of_domain) == 1:
        refused.warn(f"All items are of one domain, {next(iter(of_domain))!r}: nothing can be carried to another.")
    for what, domains in (
        ("one item, which every ranking puts first", [domain for domain, count in of_domain.items() if count == 1]),
        ("no action", sorted(of_domain.keys() - actions_by_domain.keys())),
    ):
        if domains:
            refused.warn(f"Domains with {what}: {shortened(map(repr, domains))}.")
