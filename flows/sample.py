"""The sample world as two files, with settings for them."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from data_lake.errors import UserError
from flows.init import NO_LLM, RETRIEVAL, VLLM, write_settings
from flows.settings import parse_override
from pipeline.edt_tiny import DOMAINS, POSITIONS

EDT_TINY = f"""\
model = "edt-tiny"         # comes with the package: it knows this simulated world and nothing else
max_model_len = {POSITIONS}"""


def write_sample(folder: Path, settings: Path, knobs: Sequence[str] = ()) -> list[str]:
    """Simulate a world, write its files, and settings where there are none yet; return a line about each file."""
    from pipeline.simulate import SimulateConfig, simulate, write

    tree = {key: value for knob in knobs for key, value in parse_override(knob).items()}
    try:
        cfg = SimulateConfig.model_validate(tree)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}." for each in error.errors()]
        raise UserError("\n".join(f"sample --set {problem}" for problem in problems)) from error
    world = simulate(cfg)
    paths = write(world, folder)
    tables = (world.interactions, world.items)
    lines = [f"{path}: {table.num_rows:,} rows" for path, table in zip(paths, tables, strict=True)]
    if settings.exists():
        return [*lines, f"{settings}: was there already, left as it is"]
    if importlib.util.find_spec("vllm") is None:
        generator, llm, who = RETRIEVAL, NO_LLM, "generator `retrieval`, for vLLM is not installed"
    elif not set(cfg.domains) <= set(DOMAINS):
        generator, llm, who = (
            RETRIEVAL,
            NO_LLM,
            f"generator `retrieval`, for edt-tiny knows {' and '.join(DOMAINS)} only",
        )
    else:
        generator, llm, who = VLLM, EDT_TINY, "generator `vllm` with edt-tiny"
    write_settings(settings, paths[0], paths[1], dataset="sample", generator=generator, llm=llm)
    return [*lines, f"{settings}: settings for them, {who}"]
