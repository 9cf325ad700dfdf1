"""Hold profiles against what their users chose, beside the mean of the items that were shown and another's profile.

Truth are training actions that no prompt behind a profile showed; validation and test are never read. A prompt lists
the last items of a domain, so a user's older choices there are held out, and from the profile of one domain so are all
choices in the others. A user with an inserted item in such a prompt is not judged: it may have been found by the very
choices that are held out.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from data_lake.schemas import ALL
from pipeline.frames import frame_of
from pipeline.histories import training_prefix
from pipeline.intervals import share_interval
from pipeline.llm.failures import ENOUGH
from pipeline.vectors.catalogue import DECIMALS, Catalogue, blocks
from pipeline.vectors.embedding import Embed, embed_texts

NEAREST = 10
"""Items nearest to a vector among which a choice is found."""
LOOKED_AT, JUDGED = 20_000, 2_000
"""Users that are drawn, and how many of them are judged at most, by scope and domain."""
SEED = 0

Pairs = tuple[np.ndarray, np.ndarray]
"""Users, from 0, and an item of each."""


def draw_users(sequences: pa.Table, user_ids: pa.ChunkedArray) -> pa.Table:
    """Return the sequences of at most LOOKED_AT of the users, in an order by chance."""
    known = np.flatnonzero(pc.is_in(sequences["user_id"], value_set=user_ids.combine_chunks()))
    drawn = np.random.default_rng(SEED).permutation(known)[:LOOKED_AT]
    is_drawn = np.zeros(sequences.num_rows, dtype=bool)
    is_drawn[drawn] = True
    return sequences.filter(pa.array(is_drawn)).take(pa.array(np.argsort(np.argsort(drawn))))


def measure_profiles(
    profiles: pa.Table, domain_profiles: pa.Table, prompts: pl.DataFrame, sequences: pa.Table, catalogue: Catalogue,
    domains: Sequence[str], embed: Embed,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a row per scope of `profiles` and domain: how many of the held-out choices are among the nearest items.

    `profiles` has (user_id, scope, text), `prompts` what the prompts of domain profiles listed (user_id, domain,
    item_ids, real, inferred), `sequences` the users to look at (AUGMENTED_SEQUENCES, see `draw_users`). Choices are
    different items with a text. `share` is that of all choices of the judged `users`, `low` and `high` its 95 %
    interval over users. Beside it stand the same of the mean vector of the shown items, of the profile of the user
    drawn next, and of random items. What a prompt showed is left out of the nearest. `not_judged` counts users by
    reason: `no_profile`, `inserted_shown`, `nothing_held_out`, and `enough`, once JUDGED were.
    """
    users = frame_of(sequences).select("user_id")
    with_text = pl.DataFrame(pl.Series("item_id", catalogue.item_ids.filter(pa.array(catalogue.has_text))))
    chosen = training_prefix(sequences).filter(~pl.col("synthetic")).select("user_id", "domain", "item_id").unique()
    chosen = chosen.join(with_text, on="item_id", how="semi")
    told = frame_of(domain_profiles).filter(pl.col("text").is_not_null()).select("user_id", "domain")
    behind_all = prompts.join(told, on=["user_id", "domain"], how="semi")
    texts = frame_of(profiles)
    rows = []
    for scope in texts["scope"].unique().sort():
        behind = behind_all.filter(~pl.col("inferred") if scope == ALL else pl.col("domain") == scope)
        shown = behind.select("user_id", item_id="item_ids", real="real").explode("item_id", "real")
        of_users = shown.group_by("user_id").agg(shown="item_id", all_real=pl.col("real").all())
        theirs = users.join(texts.filter(scope=scope), on="user_id", how="left", maintain_order="left")
        theirs = theirs.join(of_users, on="user_id", how="left", maintain_order="left")
        unseen = chosen.join(shown, on=["user_id", "item_id"], how="anti")
        for domain in domains:
            held = unseen.filter(domain=domain).sort("item_id").group_by("user_id").agg(held="item_id")
            judged, not_judged = _judged(theirs.join(held, on="user_id", how="left", maintain_order="left"))
            figures = _figures(judged, domain, catalogue, embed) if len(judged) else {}
            rows.append({"scope": scope, "domain": domain, "users": len(judged), **figures, "not_judged": not_judged})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a manifest's figures of what `measure_profiles` found."""
    found: dict[str, dict[str, Any]] = {"found": {}, "not_judged": {}}
    for row in rows:
        figures = row.copy()
        pair, not_judged = f"{figures.pop('scope')} to {figures.pop('domain')}", figures.pop("not_judged")
        found["found"][pair] = figures
        if not_judged:
            found["not_judged"][pair] = not_judged
    return {"held_out": found}


def complaints(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each scope and domain where profiles find less than the mean of the shown items does."""
    for row in rows:
        if row["users"] >= ENOUGH and row["high"] < row["mean_of_shown"]:
            yield (
                f"profiles of {row['scope']} say less than the mean of the shown items: of what {row['users']:,} users "
                f"chose in {row['domain']}, the {NEAREST} items nearest to the profile hold {row['share']:.2%} "
                f"[{row['low']:.2%}, {row['high']:.2%}], those nearest to the mean {row['mean_of_shown']:.2%}"
            )


def _judged(users: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the users to judge, and how many are not, by reason."""
    reason = (
        pl.when(pl.col("text").is_null() | pl.col("shown").is_null()).then(pl.lit("no_profile"))
        .when(~pl.col("all_real")).then(pl.lit("inserted_shown"))
        .when(pl.col("held").is_null()).then(pl.lit("nothing_held_out"))
    )  # fmt: skip
    users = users.with_columns(reason=reason)
    users = users.with_columns(
        reason=pl.when(pl.col("reason").is_null().cum_sum() > JUDGED)
        .then(pl.col("reason").fill_null("enough"))
        .otherwise("reason")
    )
    return users.filter(pl.col("reason").is_null()), dict(sorted(Counter(users["reason"].drop_nulls()).items()))


def _figures(judged: pl.DataFrame, domain: str, catalogue: Catalogue, embed: Embed) -> dict[str, Any]:
    """Return what is found of the choices `held` by the vectors of users (U, d), who were `shown` other items."""
    items = catalogue.texts_of(domain)
    profiles, _ = embed_texts(pa.chunked_array([judged["text"].to_arrow()]), embed)
    shown_to, shown_rows = _rows(judged["shown"], catalogue)
    sums = np.zeros((len(judged), catalogue.vectors.shape[1]), dtype=np.float32)
    np.add.at(sums, shown_to, catalogue.vectors[shown_rows])  # as near to items as the mean: only longer
    is_here = np.isin(shown_rows, items)
    shown = shown_to[is_here], np.searchsorted(items, shown_rows[is_here])
    held_by, held_rows = _rows(judged["held"], catalogue)
    held = held_by, np.searchsorted(items, held_rows)
    choices = np.bincount(held_by, minlength=len(judged))
    open_items = len(items) - np.bincount(shown[0], minlength=len(judged))

    def found(vectors: np.ndarray) -> np.ndarray:
        return _found(vectors, catalogue.vectors[items], shown, held)

    def share(hits: np.ndarray) -> float:
        return float(hits.sum() / choices.sum())

    hits = found(profiles)
    low, high = share_interval(hits, choices)
    return {
        "choices": int(choices.sum()), "share": share(hits), "low": low, "high": high,
        "mean_of_shown": share(found(sums)),
        **({"another_user": share(found(np.roll(profiles, 1, axis=0)))} if len(judged) > 1 else {}),
        "chance": share(choices * np.minimum(NEAREST / open_items, 1)),
    }  # fmt: skip


def _found(vectors: np.ndarray, items: np.ndarray, shown: Pairs, held: Pairs) -> np.ndarray:
    """Return (U,): how many of each user's held items are among those of `items` (N, d) nearest to a vector (U, d).

    `shown` and `held` are users and rows of `items`; what was shown is never near.
    """
    hits = np.zeros(len(vectors), dtype=np.int64)
    count = min(NEAREST, len(items))
    for block in blocks(len(vectors), len(items)):
        scores = np.round(vectors[block] @ items.T, DECIMALS)
        scores[_inside(block, shown)] = -np.inf
        near = np.zeros(scores.shape, dtype=bool)
        np.put_along_axis(near, np.argpartition(-scores, count - 1, axis=1)[:, :count], True, axis=1)
        users, rows = _inside(block, held)
        hits[block] = np.bincount(users, near[users, rows], minlength=len(scores))
    return hits


def _inside(block: slice, pairs: Pairs) -> Pairs:
    users, rows = pairs
    inside = (users >= block.start) & (users < block.stop)
    return users[inside] - block.start, rows[inside]


def _rows(lists: pl.Series, catalogue: Catalogue) -> Pairs:
    """Return the user, from 0, and the catalogue's row of each item in the users' lists."""
    users = np.repeat(np.arange(len(lists)), lists.list.len().to_numpy())
    return users, catalogue.rows(lists.explode().to_arrow())
