"""Every command of README and docs/, run as it stands there."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline.sample_world.simulate import SimulateConfig, simulate, write
from tests.docs.pages import ROOT, blocks

QUIET = {
    "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}  # fmt: skip


def write_shop(folder):
    """Write the shop of the pages: two files whose columns are called as a shop may call them."""
    world = folder / "world"
    write(simulate(SimulateConfig(users=120, items=200)), world)
    actions, items = (pl.read_csv(world / name) for name in ("interactions.csv", "items.csv"))
    when = pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    actions.select(customer="user_id", sku="item_id", department="domain", created_at=when).write_csv(
        folder / "actions.csv"
    )
    items.select(sku="item_id", department="domain", name="title").write_csv(folder / "catalogue.csv")


@pytest.mark.slow
def test_the_commands_of_the_pages_run_in_order_in_one_folder(tmp_path):
    write_shop(tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = (
        os.environ | QUIET | {"PATH": path, "PYTHONPATH": str(ROOT), "PREFECT_HOME": str(tmp_path / "prefect")}
    )
    environment.pop("PREFECT_API_URL", None)
    for block in blocks("sh", "console", "python"):
        if block.not_run:
            continue
        shell = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            [*shell, block.script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block.page}:{block.line}\n{block.script}\n{done.stdout}\n{done.stderr[-3000:]}"
