"""Choose the actions that stay: each once, with enough stars, and of users and items with enough actions."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config import DataConfig
from pipeline.ingest.parts import Parts

REASONS = {1: "duplicate", 2: "rating_below_minimum", 3: "user_below_minimum", 4: "item_below_minimum"}
"""What the array `why` of a part says of a row that goes; 0: it stays."""
DUPLICATE, RATING, USER, ITEM = REASONS


def sort_part(parts: Parts, part: int, cfg: DataConfig, n_items: int) -> NDArray[np.int64]:
    """Save beside a part, for its rows in order, the arrays `row`, `user`, `item`, `time` and `why`.

    They are in order by user, time, what decides among actions at one time, and their place in the files. `user`
    numbers the part's users by id. A user's second action on an item at one time, or at one place where there are no
    times, is a duplicate. Return how many actions of each item stay (n_items,).
    """
    by = [name for name in ("order",) if name in parts.columns]
    rows = parts.read(part, ("user_id", "item", "time", "stars", *by))
    user = rows["user_id"].cast(pl.Enum(rows["user_id"].unique().sort())).to_physical().alias("user")
    rows = rows.select(user, "item", "time", "stars", *by).with_row_index("row")
    rows = rows.sort("user", "time", *by, nulls_last=True, maintain_order=True)
    why = np.zeros(len(rows), np.int8)
    place = ["time"] if cfg.times == "real" else by
    if place:
        again = _is_again(rows, place[0])
        why[again] = DUPLICATE
    if cfg.min_rating is not None:
        low = rows.select(pl.col("stars").is_null() | (pl.col("stars") < cfg.min_rating)).to_series().to_numpy()
        why[low & (why == 0)] = RATING
    for name in ("row", "user", "item"):
        parts.save(part, name, rows[name].to_numpy().astype(np.uint32))
    parts.save(part, "time", rows["time"].to_physical().to_numpy())
    parts.save(part, "why", why)
    return np.bincount(rows["item"].to_numpy()[why == 0], minlength=n_items)


def _is_again(rows: pl.DataFrame, place: str) -> NDArray[np.bool_]:
    """Say of each row whether its user acted on its item at its place before, in the order of the files.

    `rows` stand in the order of users and places, so that only neighbours can be at one place.
    """
    is_same = ((pl.col("user") == pl.col("user").shift()) & (pl.col(place) == pl.col(place).shift())).fill_null(False)
    tied = rows.with_row_index("at").filter(is_same | is_same.shift(-1, fill_value=False)).sort("row")
    again = tied.filter(~pl.struct("user", "item", place).is_first_distinct())
    found = np.zeros(len(rows), np.bool_)
    found[again["at"].to_numpy()] = True
    return found


def drop_rare(parts: Parts, of_item: NDArray[np.int64], min_user: int, min_item: int) -> NDArray[np.int64]:
    """Drop users and items with too few actions, again and again until all that is left has enough.

    `of_item` counts the actions of each item that stay; return what is left of it. Users lie in one part each.
    """
    gone = np.ones_like(of_item)
    while gone.any() and (min_user > 1 or min_item > 1):
        is_rare, gone = of_item < min_item, np.zeros_like(of_item)
        for part in range(parts.count):
            user, item, why = (parts.load(part, name) for name in ("user", "item", "why"))
            left = why == 0
            rare_user = left & (np.bincount(user[left], minlength=user.max(initial=0) + 1)[user] < min_user)
            rare_item = left & ~rare_user & is_rare[item]
            if rare_user.any() or rare_item.any():
                why[rare_user], why[rare_item] = USER, ITEM
                parts.save(part, "why", why)
                gone += np.bincount(item[rare_user | rare_item], minlength=len(of_item))
        of_item = of_item - gone
    return of_item
