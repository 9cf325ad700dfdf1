"""Loading a training set and cutting it into windows and batches."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data_lake.errors import UserError
from model.config import LossConfig, TrainConfig
from model.data.batches import epoch_batches, trainable_users
from model.data.sequences import Batch, Sequences
from model.data.sizes import check_matrix
from model.data.training_set import TrainingSet
from model.loss.scores import Catalogue
from model.loss.softmax import SampledSoftmax
from tests.fuzz.mutate import footer_numbers, with_footer_number
from tests.model.conftest import tiny_tables
from tests.model.worlds import world

ITEMS = {"a": "a1 a2 a3 a4 a5", "b": "b1 b2 b3"}  # numbers 1..5 and 6..8


def sequences(data: TrainingSet, max_length: int = 4) -> Sequences:
    return Sequences(data, max_length, torch.device("cpu"))


def batch_of(data: TrainingSet, users: list[int], max_length: int = 4, **loss: float) -> Batch:
    cfg = LossConfig.model_validate({"half_after_actions": 0, "half_after_days": 0, **loss})
    return sequences(data, max_length).batch(torch.tensor(users), cfg)


def test_a_training_set_is_read_from_its_folder(tiny_folder: Path, tiny: TrainingSet) -> None:
    data = TrainingSet.load(tiny_folder)
    assert data.digest == tiny.digest
    assert data.domains == ("a", "b")
    assert (data.n_users, data.n_items) == (40, 30)
    assert data.item_ids[0].as_py() is None
    assert data.item_ids[30].as_py() == "i30"
    assert np.flatnonzero(~data.has_text).tolist() == [0, 10, 20, 30]
    assert not data.item_vectors[~data.has_text].any()
    assert data.domain_items[1].tolist() == list(range(16, 31))
    assert sorted(data.profiles) == ["a", "all", "b"]
    assert np.flatnonzero(data.profiles["all"].present).tolist() == list(range(0, 40, 2))


def test_rows_of_an_id_table_may_come_in_any_order(tiny: TrainingSet) -> None:
    tables = tiny_tables()
    shuffled = np.random.default_rng(1).permutation(30)
    tables["items"] = tables["items"].take(pa.array(shuffled))
    tables["item_vectors"] = tables["item_vectors"].take(pa.array(shuffled[::-1]))
    assert TrainingSet.from_tables(tables).digest == tiny.digest


@pytest.fixture
def grouped_folder(tmp_path: Path) -> Path:
    """The tiny training set in row groups of seven rows, two files per table."""
    for name, table in tiny_tables().items():
        (tmp_path / "grouped" / name).mkdir(parents=True)
        half = table.num_rows // 2
        for part, rows in enumerate((table.slice(0, half), table.slice(half))):
            pq.write_table(rows, tmp_path / "grouped" / name / f"part-{part}.parquet", row_group_size=7)
    return tmp_path / "grouped"


def test_a_streamed_training_set_holds_the_same_numbers_in_files(grouped_folder: Path, tiny: TrainingSet) -> None:
    streamed = TrainingSet.load(grouped_folder, stream=True)
    assert streamed.digest == tiny.digest
    for name in ("items", "times", "splits", "synthetic", "real_before", "real_at"):
        assert isinstance(getattr(streamed, name), np.memmap), name
    for name in ("offsets", "items", "times", "splits", "synthetic", "real_before", "real_at", "train_end"):
        assert np.array_equal(getattr(streamed, name), getattr(tiny, name)), name
        assert getattr(streamed, name).dtype == getattr(tiny, name).dtype, name
    for scope, profiles in tiny.profiles.items():
        assert isinstance(streamed.profiles[scope].vectors, np.memmap)
        assert np.array_equal(streamed.profiles[scope].vectors, profiles.vectors)
        assert np.array_equal(streamed.profiles[scope].present, profiles.present)


def test_arrays_are_cut_into_pieces_without_a_trace(tiny: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("train_end", "real_before", "real_at")
    whole = [getattr(tiny, name) for name in names]
    monkeypatch.setattr("model.data.training_set.USERS_AT_ONCE", 3)
    monkeypatch.setattr("model.data.training_set.POSITIONS_AT_ONCE", 10)
    again = TrainingSet.from_tables(tiny_tables())
    for name, array in zip(names, whole, strict=True):
        assert np.array_equal(getattr(again, name), array), name


def test_streaming_needs_the_rows_in_the_order_of_their_users(grouped_folder: Path) -> None:
    path = grouped_folder / "sequences/part-0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), path)
    with pytest.raises(UserError, match="'user' does not run from 1 to 40, row by row"):
        TrainingSet.load(grouped_folder, stream=True)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("users", lambda t: t.slice(1), "'user' must run from 1 to 39"),
        ("info", lambda t: t.set_column(0, "contract_version", pa.array([9], pa.int32())), "contract version 3"),
        ("info", lambda t: t.set_column(2, "domains", pa.array([["a"]])), "domain 'b' is not in info.domains"),
    ],
)
def test_a_broken_training_set_is_named(table: str, change, message: str) -> None:
    tables = tiny_tables()
    tables[table] = change(tables[table])
    with pytest.raises(UserError, match=message):
        TrainingSet.from_tables(tables, "here")


def test_a_folder_that_is_no_training_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no training set"):
        TrainingSet.load(tmp_path)


def test_the_training_prefix_ends_after_its_last_position() -> None:
    data = world({"u": "a1 *b1 a2 a3:validation a4:test", "v": "a1 a2:context", "w": "a1:validation"}, ITEMS)
    assert data.train_end.tolist() == [3, 1, 0]


def test_the_last_real_position_before_it_predicts_each_real_training_item() -> None:
    data = world({"u": "a1 *b1 *b2 a2 b3 a3:validation a4:test"}, ITEMS)
    batch = batch_of(data, [0])
    assert batch.windows.items.tolist() == [[1, 6, 7, 2]]  # b3 is only a target
    assert batch.position.tolist() == [0, 3]  # a1, which reads nothing of what is inserted after it, and a2
    assert batch.target.tolist() == [2, 8]
    assert batch.weight.tolist() == [1, 1]


def test_a_real_target_counts_once_however_many_items_stand_before_it() -> None:
    data = world({"u": "a1 *b1 a2 b3 *b1 *b2 *a4 a3 a3:validation", "v": "*b1 a4 a2"}, ITEMS)
    batch = batch_of(data, [0, 1])
    assert batch.target.tolist() == [2, 8, 3, 2]
    assert batch.weight.tolist() == [1] * 4


def test_nothing_is_predicted_from_inserted_items_alone() -> None:
    data = world({"u": "a1 a2", "v": "*b1 *b2 a4 a2"}, ITEMS)
    batch = batch_of(data, [1], synthetic_weight=0.25)
    assert batch.windows.items.tolist() == [[6, 7, 4]]
    assert batch.target.tolist() == [2]
    assert batch.position.tolist() == [2]


def test_a_synthetic_item_is_a_target_only_with_a_weight() -> None:
    data = world({"u": "a1 *b1 *b2 a2 b3 a3:validation a4:test"}, ITEMS)
    batch = batch_of(data, [0], synthetic_weight=0.25)
    assert batch.target.tolist() == [2, 8, 6, 7]
    assert batch.position.tolist() == [0, 3, 0, 0]  # both from a1, the last real item before them
    assert batch.weight.tolist() == [1, 1, 0.25, 0.25]


def test_a_synthetic_item_has_its_own_weight_and_none_without_one() -> None:
    data = world({"u": "a1 *b1 *b2 a2 b3 a3:validation a4:test"}, ITEMS)
    weights = np.array([0, 0, 0.125, 0, 0, 0, 0], np.float32)
    batch = batch_of(replace(data, weights=weights), [0], synthetic_weight="measured")
    assert batch.target.tolist() == [2, 8, 7]
    assert batch.position.tolist() == [0, 3, 0]
    assert batch.weight.tolist() == [1, 1, 0.125]


def test_an_older_target_of_a_user_counts_less() -> None:
    data = world({"u": "a1 a2 *b1 a3 a4 a5:validation", "v": "a1 a2"}, ITEMS)
    batch = batch_of(data, [0, 1], half_after_actions=2)
    assert batch.target.tolist() == [2, 3, 4, 2]
    assert batch.weight.tolist() == pytest.approx([0.5, 0.5**0.5, 1, 1])


def test_a_target_long_before_the_end_of_training_counts_less() -> None:
    day = 86_400_000
    data = world({"u": f"a1@0 a2@{day} a3@{3 * day} a4@{9 * day}:validation", "v": f"a1@0 a5@{5 * day}"}, ITEMS)
    batch = batch_of(data, [0, 1], half_after_days=2)
    assert batch.target.tolist() == [2, 3, 5]
    assert batch.weight.tolist() == pytest.approx([0.25, 0.5, 1])


def test_a_prediction_has_the_time_of_the_last_item_that_it_reads() -> None:
    data = world({"u": "a1@3 *b1@3 a2@7 b3@9"}, ITEMS)
    batch = batch_of(data, [0], synthetic_weight=0.5)
    assert batch.target.tolist() == [2, 8, 6]
    assert batch.time.tolist() == [3, 7, 3]


def test_the_targets_of_all_users_are_their_real_training_items_after_the_first(tiny: TrainingSet) -> None:
    batch = batch_of(tiny, trainable_users(tiny).tolist(), max_length=50)
    inserted = {(user, 3) for user in range(0, 40, 2)}  # row and place of every synthetic item
    flat = [
        (user, place, int(tiny.items[tiny.offsets[user] + place]))
        for user in range(40)
        for place in range(int(tiny.train_end[user]))
    ]
    real = [(user, place, item) for user, place, item in flat if (user, place) not in inserted]
    follow = {  # by the place read last
        (user, place - 1 - ((user, place - 1) in inserted)): item for user, place, item in real if place > 0
    }
    made = {
        (int(batch.users[index]), int(position)): int(target)
        for index, position, target in zip(batch.batch_index, batch.position, batch.target, strict=True)
    }
    assert made == follow
    assert batch.weight.tolist() == [1.0] * len(follow)


def test_an_inserted_item_is_a_negative_like_any_other() -> None:
    data = world({"u": "a1 *a3 a2 a1", "v": "a2 a1 a2"}, ITEMS)
    cfg = TrainConfig.model_validate({"loss": {"negatives": 0}})
    loss = SampledSoftmax(Catalogue.of(data, torch.device("cpu")), cfg.loss)
    every = loss.draw(batch_of(data, [0, 1]).target, torch.Generator())
    assert [items.tolist() for items in every] == [[1, 2, 3, 4, 5], [6, 7, 8]]


def test_the_length_limit_counts_real_items_and_position_ids_do_too() -> None:
    data = world({"u": "a1 *b1 a2 *b2 a3 *b3 a4 a5"}, ITEMS)
    windows, _ = sequences(data, max_length=3).windows(torch.tensor([0]), torch.tensor([8]))
    assert windows.items.tolist() == [[3, 8, 4, 5]]  # a3 *b3 a4 a5
    assert windows.position_ids.tolist() == [[0, 0, 1, 2]]
    windows, _ = sequences(data, max_length=5).windows(torch.tensor([0]), torch.tensor([7]))
    assert windows.items.tolist() == [[1, 6, 2, 7, 3, 8, 4]]
    assert windows.position_ids.tolist() == [[0, 0, 1, 1, 2, 2, 3]]


def test_windows_of_several_users_are_padded_on_the_right() -> None:
    data = world({"u": "a1 a2 a3", "v": "b1", "w": "a5 a4"}, ITEMS)
    windows, start = sequences(data).windows(torch.tensor([2, 0, 1]), torch.tensor([2, 3, 0]))
    assert windows.items.tolist() == [[5, 4, 0], [1, 2, 3], [0, 0, 0]]
    assert windows.lengths.tolist() == [2, 3, 0]
    assert start.tolist() == [4, 0, 3]


def test_an_evaluation_window_ends_where_its_prefix_does() -> None:
    data = world({"u": "a1 a2 a3:validation a4:test"}, ITEMS)
    windows, _ = sequences(data).windows(torch.tensor([0, 0]), torch.tensor([2, 3]))
    assert windows.items.tolist() == [[1, 2, 0], [1, 2, 3]]


def test_users_need_two_real_training_items_to_train() -> None:
    data = world({"u": "a1 *b1 a2:test", "v": "a1 a2", "w": "a1:context a2:test"}, ITEMS)
    assert trainable_users(data).tolist() == [1]


def test_an_epoch_holds_each_user_once_and_repeats_with_its_seed() -> None:
    users, lengths = np.arange(100), np.arange(100) % 7
    batches = epoch_batches(users, lengths, 8, (1, 2))
    assert sorted(np.concatenate(batches).tolist()) == list(range(100))
    assert min(map(len, batches)) >= 8
    again, other = epoch_batches(users, lengths, 8, (1, 2)), epoch_batches(users, lengths, 8, (1, 3))
    assert [b.tolist() for b in again] == [b.tolist() for b in batches]
    assert [b.tolist() for b in other] != [b.tolist() for b in batches]


def test_a_batch_holds_users_of_similar_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 1000)
    padding = sum(lengths[b].max() * len(b) for b in epoch_batches(np.arange(1000), lengths, 20, (0,)))
    assert padding < 1.1 * lengths.sum()  # random batches: about twice the sum


def first_list(table: pa.Table, column: str, change: Callable[[list[Any]], list[Any]]) -> pa.Table:
    """Return the table with the first row's list of a column changed."""
    rows = table[column].to_pylist()
    rows[0] = change(rows[0])
    place = table.schema.get_field_index(column)
    return table.set_column(place, table.schema.field(column), pa.array(rows, table.schema.field(column).type))


STRANGE_POSITIONS: dict[str, tuple[str, Callable[[list[Any]], list[Any]], str]] = {
    "a split of a later version": ("splits", lambda given: [99, *given[1:]], r"a split number lies outside 0..3"),
    "a negative split": ("splits", lambda given: [-1, *given[1:]], r"a split number lies outside 0..3"),
    "test before training": ("splits", lambda given: given[::-1], r"or one of both before training"),
    "test before validation": ("splits", lambda given: [*given[:-2], 2, 1], r"test action stands before validation"),
    "item 0": ("items", lambda given: [0, *given[1:]], r"an item number lies outside 1..30"),
    "an item too many": ("items", lambda given: [31, *given[1:]], r"an item number lies outside 1..30"),
    "a negative weight": ("weights", lambda given: [-1.0, *given[1:]], r"a weight is negative or no number"),
    "a weight that is none": ("weights", lambda given: [math.nan, *given[1:]], r"a weight is negative or no number"),
}


@pytest.mark.parametrize("kind", STRANGE_POSITIONS)
@pytest.mark.parametrize("stream", [False, True])
def test_positions_that_no_training_set_holds_are_refused(tmp_path: Path, kind: str, stream: bool) -> None:
    column, change, reason = STRANGE_POSITIONS[kind]
    tables = tiny_tables()
    tables["sequences"] = first_list(tables["sequences"], column, change)
    with pytest.raises(UserError, match=reason):
        TrainingSet.load(written(tables, tmp_path), stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("table", ["item_vectors", "profile_vectors"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path, stream: bool, table: str, value: float) -> None:
    tables = tiny_tables()
    tables[table] = first_list(tables[table], "vector", lambda given: [value, *given[1:]])
    with pytest.raises(UserError, match=f"{table}: a vector holds what is no number"):
        TrainingSet.load(written(tables, tmp_path), stream)


def test_a_vector_of_the_padding_is_refused() -> None:
    tables = tiny_tables()
    numbers = pa.array([0, *range(2, 31)], pa.int32())
    tables["item_vectors"] = tables["item_vectors"].set_column(0, "item", numbers)
    with pytest.raises(UserError, match="a vector belongs to item 0, which is padding"):
        TrainingSet.from_tables(tables)


def test_a_negative_count_is_refused() -> None:
    tables = tiny_tables()
    place = tables["items"].schema.get_field_index("train_actions")
    counts = pa.array([-1, *tables["items"]["train_actions"].to_pylist()[1:]], pa.int64())
    tables["items"] = tables["items"].set_column(place, "train_actions", counts)
    with pytest.raises(UserError, match="'train_actions' is negative"):
        TrainingSet.from_tables(tables)


def test_a_domain_that_is_named_twice_is_refused() -> None:
    tables = tiny_tables()
    place = tables["info"].schema.get_field_index("domains")
    tables["info"] = tables["info"].set_column(place, "domains", pa.array([["a", "b", "a"]]))
    with pytest.raises(UserError, match="names one twice"):
        TrainingSet.from_tables(tables)


def test_more_domains_than_are_ever_there_are_refused() -> None:
    assert_info_is_refused("domains", [[f"d{number}" for number in range(1001)]], "names 1001; at most 1000 are read")


def test_times_of_an_unknown_kind_are_refused() -> None:
    assert_info_is_refused("times", ["guessed"], "info.times is 'guessed'")


def test_a_negative_seed_is_refused() -> None:
    assert_info_is_refused("candidates_seed", [-1], "candidates_seed -1 is negative")


def assert_info_is_refused(column: str, values: list[Any], reason: str) -> None:
    tables = tiny_tables()
    place = tables["info"].schema.get_field_index(column)
    tables["info"] = tables["info"].set_column(place, column, pa.array(values))
    with pytest.raises(UserError, match=reason):
        TrainingSet.from_tables(tables)


@pytest.mark.parametrize("stream", [False, True])
def test_profiles_of_what_is_no_domain_are_refused(tmp_path: Path, stream: bool) -> None:
    tables = tiny_tables()
    scopes = pa.array(["nowhere", *tables["profile_vectors"]["scope"].to_pylist()[1:]])
    tables["profile_vectors"] = tables["profile_vectors"].set_column(1, "scope", scopes)
    with pytest.raises(UserError, match="profile_vectors: scope 'nowhere' is no domain"):
        TrainingSet.load(written(tables, tmp_path), stream)


@pytest.mark.parametrize(("rows", "width", "reason"), [
    (10**6, 384, r"1 of 1000000 have a vector, of 384 numbers; few for 1\.5 GB"),
    (2, 20_000, r"a vector has 20000 numbers; at most 16384 are read"),
])  # fmt: skip
def test_a_matrix_that_is_nearly_empty_is_refused_before_it_is_made(rows: int, width: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        check_matrix(rows, width, 1, "vectors")


def test_a_matrix_with_few_gaps_or_little_memory_is_made() -> None:
    check_matrix(10**6, 384, 1000, "vectors")
    check_matrix(1000, 384, 0, "vectors")


BOMBS: dict[str, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    "one history of a million zeros": (
        "sequences", lambda table: table.slice(0, 1).set_column(4, "synthetic", zeros(1_000_000)),
    ),
    "one title of 16 kilobytes a thousand times": (
        "items",
        lambda table: pa.concat_tables([table] * 34).slice(0, 1000).set_column(3, "title", titles(1000)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_becomes_large_is_refused_before_it_is_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, change = BOMBS[kind]
    tables = tiny_tables()
    folder = written(tables | {name: change(tables[name])}, tmp_path)
    monkeypatch.setattr("model.data.sizes.FREELY_UNPACKED", 2**18)
    monkeypatch.setattr("model.data.training_set.read_tables", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match=f"{name}/part-00000.parquet: unpacked it is more than 100 times its size"):
        TrainingSet.load(folder)


def test_a_footer_that_gives_a_column_of_texts_another_type_is_refused_and_ends_no_process(tmp_path: Path) -> None:
    folder = written(tiny_tables(), tmp_path)
    path = folder / "users" / "part-00000.parquet"
    good = path.read_bytes()
    text, whole_number = 6, 1  # in Parquet's list of types
    refused = []
    for place in (place for place, value in enumerate(footer_numbers(good)) if value == text):
        path.write_bytes(with_footer_number(good, place, whole_number))
        try:
            TrainingSet.load(folder)
        except UserError:
            refused.append(place)
    assert len(refused) == 1  # the one that stands in the schema


@pytest.mark.parametrize("name", ["sequences", "profile_vectors", "users"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_damaged_page_is_refused_by_its_file(tmp_path: Path, name: str, stream: bool) -> None:
    folder = written(tiny_tables(), tmp_path)
    path = folder / name / "part-00000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xff" * 60 + data[64:])
    with pytest.raises(UserError, match=f"{name}/part-00000.parquet cannot be read as Parquet"):
        TrainingSet.load(folder, stream)


def zeros(count: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(np.zeros(count, np.int8), pa.int8()))


def titles(count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), ["t" * 2**14])


def written(tables: dict[str, pa.Table], folder: Path) -> Path:
    """Write the tables of a training set, one file each."""
    for name, table in tables.items():
        (folder / name).mkdir(parents=True)
        pq.write_table(table, folder / name / "part-00000.parquet")
    return folder
