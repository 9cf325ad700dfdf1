"""Poisoning: with other validation and test items, nothing that enrichment or training reads may change."""

import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import polars as pl
import pytest

from data_lake.schemas import SPLITS, TRAIN
from pipeline.sample_world.simulate import SimulateConfig

ENRICHED = (
    "probes", "representatives", "generated_items", "grounded_items", "answer_lift", "domain_profiles", "user_profiles",
    "profile_embeddings",
)  # fmt: skip
FITS = ("clusters", "examples", "fitted")
BY_TIME = ("split.by=time", "split.validation_days=60", "split.test_days=60")


class Listening(BaseHTTPRequestHandler):
    """Keeps the bytes of each request, and answers it in the words of their hash."""

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(asked)
        words = hashlib.sha256(asked).hexdigest()
        fields = json.loads(asked)["response_format"]["json_schema"]["schema"]["properties"]
        name, schema = next(iter(fields.items()))
        if name == "numbers":
            answer = {name: [int(words[:8], 16) % schema["items"]["maximum"] + 1]}
        elif name == "attributes":
            answer = {name: [words[:8]], "goes_with": [words[8:16]]}
        else:
            answer = {name: [words[:8], words[8:16]] if name == "items" else f"likes {words}"}
        choice = {"message": {"content": json.dumps(answer)}, "finish_reason": "stop"}
        said = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        """Be quiet."""


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listening)
    server.daemon_threads, server.asked = True, []
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def poison(place, sequences):
    """Permute the items of all actions that are not for training within their domain: each item keeps its count."""
    path = place.folder / "interactions.csv"
    table = pl.read_csv(path).with_row_index("row")
    ordered = table.sort("user_id", "timestamp", maintain_order=True)
    splits = sequences.select("user_id", split="splits").explode("split").sort("user_id", maintain_order=True)
    assert ordered["user_id"].to_list() == splits["user_id"].to_list()
    hidden = ordered.with_columns(splits["split"]).filter(pl.col("split") != TRAIN)
    rng = np.random.default_rng(0)
    parts = [
        part.with_columns(item_id=pl.Series(rng.permutation(part["item_id"].to_numpy())))
        for _, part in hidden.group_by("domain", maintain_order=True)
    ]
    poisoned = table.update(pl.concat(parts).select("row", "item_id"), on="row")
    assert (poisoned["item_id"] != table["item_id"]).sum() > len(hidden) / 2
    poisoned.drop("row").write_csv(path)


def made(place, endpoint, *overrides):
    """Make everything up to the training set; return what must not change, and the sequences."""
    endpoint.asked.clear()
    asking = (
        "enrich.examples=1", "llm.model=m", "llm.max_alike=1", "llm.max_useless=1", "profile.last_items=3",
        f"openai.base_url=http://127.0.0.1:{endpoint.server_address[1]}/v1",
    )  # fmt: skip
    with place.open(*asking, *overrides, to="assemble") as run:
        manifests = [run.lake.run(stage) for stage in run.selection.apply(run.stages)]
        content = {name: output.content for each in manifests for name, output in each.outputs.items()}
        [embedded] = [each for each in manifests if each.stage == "embed_profiles"]
        names = ("users", "items", "item_vectors", "profile_vectors", "info")
        training_set = {name: run.lake.read("training_set", name) for name in names}
        lists = ["items", "times", "splits", "synthetic", "weights"]
        actions = pl.DataFrame(run.lake.read("training_set", "sequences")).explode(lists)
    unchanged = {
        **{name: content[name] for name in ENRICHED},
        "held_out": embedded.figures["held_out"],
        "prompts": sorted(endpoint.asked),
        **{name: rows_of(place.lake.home / "memory" / name) for name in FITS},
        **training_set,
        "targets": actions.filter(pl.col("splits") == SPLITS.index(TRAIN)).rows(),
    }
    return unchanged, pl.DataFrame(place.lake.read("sequences"))


def rows_of(folder):
    """Return all rows of a cache."""
    parts = sorted(folder.glob("*.parquet"))
    return sorted(str(row) for part in parts for row in pl.read_parquet(part).rows())


def poisoned_and_clean(place, endpoint, *overrides):
    """Return what must not change, as made of a poisoned copy and as made of the place itself."""
    folder = place.folder.with_name("poisoned")
    shutil.copytree(place.folder, folder, symlinks=True)
    clean, sequences = made(place, endpoint, *overrides)
    poisoned = type(place)(folder)
    poison(poisoned, sequences)
    found, poisoned_sequences = made(poisoned, endpoint, *overrides)
    assert not poisoned_sequences.equals(sequences)
    return found, clean


def differing(found, clean):
    return [name for name in clean if found[name] != clean[name]]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("enrich.generator=openai", "describe.generator=openai"), marks=pytest.mark.slow),
        ("enrich.generator=openai", "enrich.ask=choose"),
        ("enrich.generator=retrieval", *BY_TIME),
    ],
)
def test_no_validation_or_test_item_reaches_prompts_fits_profiles_or_training_targets(fresh_place, endpoint, overrides):
    found, clean = poisoned_and_clean(fresh_place, endpoint, *overrides)
    assert differing(found, clean) == []
    assert clean["clusters"]
    assert clean["examples"]
    assert any(figures["users"] for figures in clean["held_out"]["found"].values())
    assert any(synthetic for *_, synthetic, _ in clean["targets"])
    assert (len(clean["prompts"]) > 0) == ("enrich.generator=openai" in overrides)


@pytest.mark.slow
def test_no_validation_or_test_item_reaches_the_noise_filter(new_place, finished, tmp_path, endpoint):
    place = new_place(tmp_path / "many", SimulateConfig(users=300, items=60))
    shutil.copytree(finished.lake.home / "memory" / "vectors", place.lake.home / "memory" / "vectors")
    many = ("enrich.probes=300", "enrich.rows_per_shard=1000", "profile.rows_per_shard=1000")
    found, clean = poisoned_and_clean(
        place, endpoint, "enrich.generator=cooccurrence", "enrich.noise_filter=true", *many
    )
    assert differing(found, clean) == []
    assert clean["fitted"]
    assert any(synthetic for *_, synthetic, _ in clean["targets"])
