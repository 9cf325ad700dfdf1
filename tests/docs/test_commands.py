"""Every command of README and docs/, run as it stands there."""

import os
import re
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


@pytest.mark.slow
def test_make_docs_builds_pages_that_read_nothing_from_the_network(tmp_path):
    made = subprocess.run(
        ["make", "docs", f"DOCS_VENV={tmp_path / 'venv'}", f"SITE={tmp_path / 'site'}", f"PYTHON={sys.executable}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if re.search("No matching distribution|Could not find a version", made.stderr):
        pytest.skip("Sphinx cannot be installed here")
    assert made.returncode == 0, made.stdout + made.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) > 12
    for page in pages:
        assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]*", page.read_text()) == []
    styles = "".join(path.read_text() for path in (tmp_path / "site" / "_static").rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:https?:)?//|@import", styles) == []
