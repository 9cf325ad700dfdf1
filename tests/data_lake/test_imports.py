import subprocess
import sys
from pathlib import Path


def loaded_by(module: str) -> set[str]:
    """Return the modules that a new Python process has loaded after it imported `module`."""
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    here = Path(__file__).resolve().parents[2]
    return set(subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.split())


def test_the_lake_loads_nothing_heavy() -> None:
    heavy = {
        "torch",
        "polars",
        "pandas",
        "prefect",
        "vllm",
        "sentence_transformers",
        "fsspec",
        "rich",
        "pyarrow.dataset",
    }
    assert heavy & loaded_by("data_lake.lake") == set()


def test_the_store_and_a_stages_io_know_no_lake() -> None:
    assert "data_lake.lake" not in loaded_by("data_lake.stage") | loaded_by("data_lake.object_store")
