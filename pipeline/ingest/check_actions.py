"""Check rows of actions, batch by batch: ids, times, positions, ratings, and the item's domain."""

from collections import Counter
from collections.abc import Set

import polars as pl
import pyarrow.compute as pc

from pipeline.config import DataConfig
from pipeline.ingest.clean_items import check_domains
from pipeline.ingest.forgotten import FORGOTTEN, hash_user
from pipeline.ingest.ids import is_missing_word, written_otherwise
from pipeline.ingest.inputs import names
from pipeline.ingest.refused import Refused
from pipeline.ingest.times import EARLIEST, LATEST, day_of


class Catalogue:
    """Every domain that each item is listed in; `items` are (item_id, domain) of the first of each."""

    def __init__(self, listings: pl.DataFrame) -> None:
        self.listings = listings
        self.items = listings.unique("item_id", keep="first", maintain_order=True)
        self._ids = self.items["item_id"].to_arrow()

    def number(self, item_ids: pl.Series) -> pl.Series:
        """Return the row of each id among `items`, null for an unknown one."""
        found = pc.index_in(item_ids.to_arrow().cast(self._ids.type), value_set=self._ids)
        return pl.Series("item", found).cast(pl.UInt32)

    def unlisted(self, actions: pl.DataFrame) -> pl.DataFrame:
        """Return item_id and domain of the items that only the actions know; raises UserError for the domain "all"."""
        new = actions.filter(pl.col("domain").is_not_null() & pl.lit(self.number(actions["item_id"]).is_null()))
        new = new.filter(pl.col("item_id").is_not_null())
        new = new.select("item_id", "domain").unique("item_id", keep="first", maintain_order=True)
        check_domains(new)
        return new


class ActionChecks:
    """The checks of one kind of rows, and what is to be told of all of them together."""

    def __init__(self, cfg: DataConfig, kind: str, forgotten: Set[str], refused: Refused) -> None:
        self._cfg, self._kind, self._forgotten, self._refused = cfg, kind, forgotten, refused
        self._unknown: Counter[str] = Counter()
        self._outside, self._first_outside = 0, ""

    def without_forgotten(self, actions: pl.DataFrame) -> pl.DataFrame:
        """Refuse the rows of users who left, without a text."""
        if not self._forgotten or not len(actions):
            return actions
        users = actions["user_id"].drop_nulls().unique()
        left = users.filter(pl.Series([hash_user(user) in self._forgotten for user in users], dtype=pl.Boolean))
        is_left = pl.col("user_id").is_in(left.implode()).fill_null(False)
        bad = actions.filter(is_left).select("file", "line", reason=pl.lit(FORGOTTEN), row=pl.lit(""))
        if len(bad):
            self._refused.add(bad, self._kind)
        return actions.filter(~is_left)

    def check(self, actions: pl.DataFrame) -> pl.DataFrame:
        """Refuse rows whose ids, time, position or rating is missing or broken; add the rating as `stars`."""
        raw = actions["raw_rating"]
        texts = raw.cast(pl.String).str.strip_chars().replace("", None)
        stars = raw.cast(pl.Float64, strict=False).fill_nan(None)
        is_bad = texts.set(is_missing_word(texts), None).is_not_null() & ~stars.is_finite().fill_null(False)
        is_in_time = pl.col("time").is_between(EARLIEST, LATEST, closed="left")
        place = (
            pl.col("order").is_null() if "order" in actions.columns and self._cfg.times == "order" else pl.lit(False)
        )
        reason = (
            pl.when(pl.col("user_id").is_null()).then(pl.lit("no_user"))
            .when(pl.col("item_id").is_null()).then(pl.lit("no_item"))
            .when(pl.col("time").is_null()).then(pl.lit("bad_time"))
            .when(~is_in_time).then(pl.lit("impossible_time"))
            .when(place).then(pl.lit("bad_position"))
            .when(pl.lit(is_bad)).then(pl.lit("bad_rating"))
        )  # fmt: skip
        if self._cfg.times == "real":
            self._see_times(actions.filter(~is_in_time))
        return self._refused.take(actions.with_columns(stars.alias("stars")), reason, self._kind)

    def give_items(self, actions: pl.DataFrame, catalogue: Catalogue) -> pl.DataFrame:
        """Refuse rows of unknown items and of other domains than the item's; add the number of the item as `item`."""
        item = catalogue.number(actions["item_id"])
        actions = actions.with_columns(item)
        unknown = actions.filter(item.is_null()).group_by("item_id", maintain_order=True).len()
        self._unknown.update(dict(unknown.iter_rows()))
        kept = catalogue.items["domain"].gather(item)
        unlisted = pl.lit(False)
        if (actions["domain"] != kept).any():
            listings = catalogue.listings.with_columns(listed=True)
            actions = actions.join(listings, on=["item_id", "domain"], how="left", maintain_order="left")
            unlisted = pl.col("domain").is_not_null() & pl.col("listed").is_null()
        reason = (
            pl.when(pl.col("item").is_null()).then(pl.lit("unknown_item"))
            .when(unlisted).then(pl.lit("domain_mismatch"))
        )  # fmt: skip
        return self._refused.take(actions, reason, self._kind)

    def warn(self, listed: pl.Series) -> None:
        """Name times outside of what is taken and how they were read, and ids that `listed` ones write otherwise."""
        if self._outside:
            self._refused.warn(
                f"{self._outside:,} times are outside of {EARLIEST:%Y} to {LATEST:%Y}, the first of them "
                f'{self._first_outside} ([data] timestamp_unit = "{names(self._cfg)[2]}").'
            )
        unknown = pl.Series("unknown", list(self._unknown), pl.String)
        if len(unknown) and (twins := written_otherwise(unknown, listed)):
            (ours, theirs), rows = next(iter(twins.items())), sum(self._unknown[name] for name in twins)
            self._refused.warn(
                f"{rows:,} {self._kind} rows name an item that the items file writes otherwise: {ours!r} here, "
                f"{theirs!r} there. Write each id in one way."
            )

    def _see_times(self, outside: pl.DataFrame) -> None:
        if len(outside) and not self._outside:
            raw = outside["raw_timestamp"][0]
            self._first_outside = f"{str(raw)[:60]!r}, read as {day_of(outside['time'][:1])}"
        self._outside += len(outside)
