import json

import pyarrow as pa

from data_lake.schemas import AUGMENTED_SEQUENCES
from pipeline.config import ProfileConfig
from pipeline.llm.generator import Reply
from pipeline.profile.embed_profiles import embed_profiles, profiles_to_embed
from pipeline.profile.profile_domains import profile_domains, profile_rows
from pipeline.profile.profile_users import profile_users, users_to_profile
from tests.pipeline.worlds import DOMAINS, Angles, Answering, Scripted, items_table, rows_of, sequences_table


def test_profiles_list_items_by_cluster_and_mark_the_real_ones():
    items = items_table(food=[0, 1, 90], kitchen=[5], garden=[7])
    sequences = sequences_table(u="food_0 food_90 food_1 food_0 food_90 food_90")
    augmented = sequences.append_column("synthetic", pa.array([[False] * 6]))
    augmented = augmented.append_column("weights", pa.array([[0.0] * 6]))
    row = augmented.to_pylist()[0]
    for name, value in (
        ("item_ids", "kitchen_5"),
        ("domains", "kitchen"),
        ("splits", "train"),
        ("synthetic", True),
        ("weights", 0.1),
    ):
        row[name].insert(2, value)
    row["timestamps"].insert(2, row["timestamps"][1])
    augmented = pa.Table.from_pylist([row], schema=AUGMENTED_SEQUENCES.tables[""])
    clusters = pa.table(
        {"item_id": ["food_0", "food_1", "food_90", "kitchen_5"], "cluster": pa.array([1, 1, 0, 0], pa.int32())}
    )
    generator = Answering()
    listed = profile_rows(augmented, clusters, ProfileConfig().last_items, DOMAINS)
    table = profile_domains(listed, items, generator, ProfileConfig(), {})
    assert rows_of(table, "domain", "evidence", "inferred", "status", "reason") == [
        ("food", 4, False, "ok", None),
        ("kitchen", 0, True, "ok", None),
        ("garden", 0, True, "failed", "no_items"),
    ]
    assert rows_of(table, "domain", "seen", "forbidden") == [("food", 3, 4), ("kitchen", None, 4), ("garden", None, 4)]
    prompts = {request.question.domain: request.messages[1]["content"] for request in generator.requests}
    assert prompts["food"] == 'Group 1\nchosen "food 90"\nGroup 2\nchosen "food 1"\nchosen "food 0"'
    assert prompts["kitchen"] == 'Group 1\nguessed "kitchen 5"'
    two = Answering()
    profile_domains(profile_rows(augmented, clusters, 2, DOMAINS), items, two, ProfileConfig(), {})
    assert two.requests[0].question.groups == (("food 1", "food 0"),)


def test_a_reply_that_is_a_copy_or_an_echo_is_asked_for_once_more_and_then_no_profile():
    items, domains = items_table(food=[0, 90]), ("food",)
    users = sequences_table(u="food_0 food_90 food_0 food_0", v="food_0 food_90 food_90 food_0")
    marks = {"synthetic": pa.array([[False] * 4] * 2), "weights": pa.array([[0.0] * 4] * 2)}
    for name, column in marks.items():
        users = users.append_column(name, column)
    clusters = pa.table({"item_id": ["food_0", "food_90"], "cluster": pa.array([0, 0], pa.int32())})
    copied, echo, good = (Reply(json.dumps({"profile": text})) for text in ("Food 90.", "chosen food 0", "Likes tea."))
    listed = profile_rows(users, clusters, 15, domains)
    table = profile_domains(listed, items, Scripted(copied, copied, echo, good), ProfileConfig(), {})
    assert rows_of(table, "status", "reason", "text") == [("failed", "echo", None), ("ok", None, "Likes tea.")]
    merged = Scripted(echo := Reply(json.dumps({"profile": "evidence: 2, description"})), echo)
    told = profile_users(users_to_profile(table), merged, ProfileConfig())
    assert rows_of(told, "reason") == [("no_profiles",), ("echo",)]


def test_the_merge_is_told_the_evidence_and_an_inferred_profile_weighs_nothing():
    profiles = pa.table({
        "user_id": ["u", "u", "u", "v", "v", "v"], "domain": list(DOMAINS) * 2,
        "text": ["likes tea", "likes pans", None, "guess", None, None], "evidence": [4, 0, 2, 0, 0, 0],
        "inferred": [False, True, False, True, True, True],
        "seen": [4, None, 2, None, None, None], "forbidden": [6, 6, 6, None, None, None],
    })  # fmt: skip
    generator = Answering()
    table = profile_users(users_to_profile(profiles), generator, ProfileConfig())
    assert rows_of(table, "user_id", "evidence", "status", "reason") == [
        ("u", 4, "ok", None),
        ("v", 0, "failed", "no_profiles"),
    ]
    assert rows_of(table, "seen", "forbidden") == [(4, 6), (None, None)]
    [request] = generator.requests
    assert request.messages[1]["content"] == '{"part": "food", "evidence": 4, "description": "likes tea"}'
    vectors = embed_profiles(profiles_to_embed(profiles, table, (*DOMAINS, "all")), Angles())
    assert rows_of(vectors, "user_id", "scope")[:4] == [("u", "food"), ("u", "kitchen"), ("u", "garden"), ("u", "all")]
    assert [vector is None for vector in vectors["vector"].to_pylist()] == [
        False,
        False,
        True,
        False,
        False,
        True,
        True,
        True,
    ]
