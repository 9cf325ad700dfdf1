"""The sample world as two files, with settings for them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from data_lake.settings_errors import parse
from flows.init import write_settings
from flows.settings import parse_override
from pipeline.sample_world.edt_tiny import DOMAINS, POSITIONS

EDT_TINY = {
    "generator": """\
generator = "vllm"         # an LLM; or "cooccurrence", what users alike chose; or "none", no enrichment""",
    "llm": f"""\
model = "edt-tiny"         # comes with the package: it knows this simulated world and nothing else
max_model_len = {POSITIONS}""",
    "loss": "synthetic_weight = 0.3     # of an inserted item as a target: edt-tiny knows what is chosen here",
}
SMALL = {"pretrain": "batch_size = 32            # users: few, so that a small world is learnt in few epochs"}


def write_sample(folder: Path, settings: Path, knobs: Sequence[str] = ()) -> list[str]:
    """Simulate a world, write its files, and settings where there are none yet; return a line about each file."""
    from pipeline.sample_world.simulate import SimulateConfig, simulate, write

    cfg = parse(SimulateConfig, {key: value for knob in knobs for key, value in parse_override(knob).items()})
    world = simulate(cfg)
    paths = write(world, folder)
    tables = (world.interactions, world.items)
    lines = [f"{path}: {table.num_rows:,} rows" for path, table in zip(paths, tables, strict=True)]
    if settings.exists():
        return [*lines, f"{settings}: was there already, left as it is"]
    hindrance = _hindrance(cfg.domains)
    if hindrance:
        write_settings(settings, paths[0], paths[1], dataset="sample", lines=SMALL)
        return [*lines, f"{settings}: settings for them, generator `cooccurrence`, for {hindrance}"]
    write_settings(settings, paths[0], paths[1], dataset="sample", lines=SMALL | EDT_TINY)
    return [*lines, f"{settings}: settings for them, generator `vllm` with edt-tiny"]


def _hindrance(domains: Sequence[str]) -> str | None:
    """Return why edt-tiny cannot be asked about a world of these domains here; None where it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed"
    return None if set(domains) <= set(DOMAINS) else f"edt-tiny knows {' and '.join(DOMAINS)} only"
