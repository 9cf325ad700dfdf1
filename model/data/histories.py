"""Histories that are given now, over the items of a training set: new users, and today's actions of known ones."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_lake.schemas import CONTEXT, SPLITS
from model.data.training_set import Ints, TrainingSet

UNTIMED = np.iinfo(np.int64).max
"""Stands for the time of an action that tells none: it comes after all others of its user."""


@dataclass(frozen=True)
class Histories:
    """The users of the histories as a training set of the same items, whose every action is context.

    A user is in it who has no known item, too, with an empty sequence.
    """

    data: TrainingSet
    actions: int
    """Given ones."""
    unknown_by_user: Ints
    """(users,) given actions on items that the catalogue does not hold; they are not read."""
    unknown_items: pa.Array
    """Their items, each once."""
    already_stored: int
    """Given actions that a user's stored sequence holds, or that were given before: they are read once."""

    @property
    def unknown_actions(self) -> int:
        """Given actions of all users on items that the catalogue does not hold."""
        return int(self.unknown_by_user.sum())


def no_actions() -> pa.Table:
    """Return histories of nobody."""
    return pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())})


def with_histories(data: TrainingSet, given: pa.Table, users: pa.Array | None = None) -> Histories:
    """Return the histories of `users`, by default of those of `given`, in the order in which they are named first.

    given: columns user_id and item_id (string) and, where actions have times, time (int64, milliseconds). The actions
    of a user whom the training set knows come after the stored ones, inserted items included; an action of the same
    item at the same time is the same action. Actions of a user stand by time, else as given.
    """
    names = pa.chunked_array([users]) if users is not None else given["user_id"]
    names = names.unique().cast(pa.string())
    owner = pc.index_in(given["user_id"], value_set=names).fill_null(-1).to_numpy()
    given, owner = given.filter(pa.array(owner >= 0)), owner[owner >= 0].astype(np.int64)
    item = pc.index_in(given["item_id"], value_set=data.item_ids, skip_nulls=True).fill_null(-1).to_numpy()
    is_known = item >= 0
    unknown_items = pc.unique(given["item_id"].filter(pa.array(~is_known)))
    unknown = np.bincount(owner[~is_known], minlength=len(names))
    times = given["time"].to_numpy() if "time" in given.column_names else np.full(given.num_rows, UNTIMED)

    stored_owner, position = _stored(data, names)
    owners = np.concatenate([stored_owner, owner[is_known]])
    items = np.concatenate([data.items[position], item[is_known]]).astype(np.int32)
    time = np.concatenate([data.times[position], times[is_known].astype(np.int64)])
    synthetic = np.concatenate([data.synthetic[position], np.zeros(int(is_known.sum()), np.bool_)])
    again = _given_again(owners, items, time, synthetic, len(position))
    order = np.lexsort((time, owners))  # stable: at one time stored actions come first
    order = order[~again[order]]
    offsets = np.concatenate([[0], np.bincount(owners[order], minlength=len(names)).cumsum()]).astype(np.int64)
    histories = replace(
        data,
        offsets=offsets,
        items=items[order],
        times=time[order],
        splits=np.full(len(order), SPLITS.index(CONTEXT), np.int8),
        synthetic=synthetic[order],
        weights=np.zeros(len(order), np.float32),
        user_ids=names,
        user_keys=np.zeros(len(names), np.uint64),
        profiles={},
        on_disk=False,
    )
    return Histories(histories, given.num_rows, unknown, unknown_items, int(again.sum()))


def _stored(data: TrainingSet, names: pa.Array) -> tuple[Ints, Ints]:
    """Return, per stored position of the users called `names`, the index of its user there and where it stands."""
    row = pc.index_in(names, value_set=data.user_ids).fill_null(-1).to_numpy().astype(np.int64)
    known = np.flatnonzero(row >= 0)
    lengths = data.lengths[row[known]]
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    return np.repeat(known, lengths), np.repeat(data.offsets[row[known]], lengths) + within


def _given_again(
    owners: Ints, items: NDArray[np.int32], times: Ints, synthetic: NDArray[np.bool_], stored: int
) -> NDArray[np.bool_]:
    """Return which actions are given (from index `stored` on) and an earlier one equals, user, item and time alike."""
    order = np.lexsort((times, items, owners, synthetic))  # stable: a stored one comes first
    alike = np.ones(max(len(order) - 1, 0), np.bool_)
    for column in (owners, items, times, synthetic):
        alike &= column[order][1:] == column[order][:-1]
    again = np.zeros(len(order), np.bool_)
    again[order[1:]] = alike
    again[:stored] = False
    again[times == UNTIMED] = False
    return again
