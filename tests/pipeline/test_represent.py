import numpy as np
import pyarrow as pa

from data_lake.schemas import REPRESENTATIVES, SEQUENCES
from data_lake.tables import check
from pipeline.augment.represent import budgets, represent
from pipeline.config import EnrichConfig
from tests.pipeline.worlds import embedded, items_table, rows_of, sequences_table


def test_budgets_fall_with_a_domains_share():
    counts = np.array([[8, 0], [6, 2], [4, 4], [0, 0]])
    assert budgets(counts, 10).tolist() == [[0, 10], [0, 5], [0, 0], [0, 0]]
    assert budgets(np.array([[7, 1, 0]]), 3).tolist() == [[0, 2, 3]]  # 3 * (1 - 3/8) = 1.875


def test_representatives_come_from_the_shown_part_and_stand_for_its_groups():
    items = items_table(food=[0, 1, 2, 90, 91, 92, 180, None], kitchen=[5])
    sequences = sequences_table(
        u="food_0 food_90 food_1 food_92 food_2 food_91 food_None kitchen_5 food_180 food_180",  # 8 train, 6 shown
        v="food_0 food_0 food_0 food_0",  # 2 train, 1 shown
    )
    table = check(
        represent(sequences, embedded(items), EnrichConfig(representatives=2), ("food", "kitchen")), REPRESENTATIVES
    )
    assert rows_of(table, "user_id", "domain", "item_ids", "actions", "budget", "shown") == [
        ("u", "food", ["food_1", "food_91"], 6, 0, 6),
        ("u", "kitchen", [], 0, 10, 6),
        ("v", "food", ["food_0"], 1, 0, 1),
        ("v", "kitchen", [], 0, 10, 1),
    ]
    assert rows_of(table, "seen", "forbidden") == [(5, 6), (5, 6), (0, 1), (0, 1)]


def test_a_query_shows_nothing_and_forbids_all():
    items = items_table(food=[0, 1], kitchen=[5])
    [row] = sequences_table(q="food_0 food_1 kitchen_5").to_pylist()
    query = pa.Table.from_pylist([row | {"splits": ["context", "context", "test"]}], schema=SEQUENCES.tables[""])
    table = represent(query, embedded(items), EnrichConfig(), ("food", "kitchen"))
    assert rows_of(table, "item_ids", "seen", "forbidden") == [([], None, 0), ([], None, 0)]


def test_a_users_representatives_do_not_depend_on_other_users():
    rng = np.random.default_rng(0)
    items = items_table(food=range(360))
    users = {f"u{n}": " ".join(f"food_{d}" for d in rng.integers(0, 360, 20 + n % 3)) for n in range(30)}
    catalogue, cfg = embedded(items), EnrichConfig()
    together = represent(sequences_table(**users), catalogue, cfg, ("food", "kitchen")).to_pylist()
    alone = represent(sequences_table(u7=users["u7"]), catalogue, cfg, ("food", "kitchen")).to_pylist()
    assert [row for row in together if row["user_id"] == "u7"] == alone
