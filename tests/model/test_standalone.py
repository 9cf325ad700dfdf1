"""The trainer runs where neither the pipeline nor the flows nor what they need is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from model.__main__ import main
from tests.model.conftest import SMALL

ROOT = Path(__file__).parents[2]

BLOCKED = ("pipeline", "flows", "prefect", "vllm", "polars", "transformers", "sentence_transformers")

CHILD = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
from model.__main__ import main
data, run, out, config = sys.argv[1:]
assert main(["train", "--data", data, "--out", run, "--config", config]) == 0
assert main(["evaluate", "--data", data, "--run", run, "--out", out]) == 0
assert main(["recommend", "--data", data, "--run", run, "--out", out]) == 0
assert not set({BLOCKED!r}) & set(sys.modules)
"""


def test_train_evaluate_and_recommend_need_nothing_of_the_pipeline(tiny_folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.json"
    config.write_text(json.dumps(SMALL))
    arguments = [tiny_folder, tmp_path / "run", tmp_path / "out", config]
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics", "ranks", "recommendations"]


def test_a_wrong_section_is_named_with_epochs_given_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "train.json"
    config.write_text('{"pretrain": 3}')
    arguments = ["train", "--data", str(tmp_path), "--out", str(tmp_path), "--config", str(config), "--epochs", "2"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: pretrain: ")


def test_an_out_that_cannot_be_a_folder_is_named(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["train", "--data", str(tiny_folder), "--out", str(tmp_path / "file")]) == 2
    assert "file/pretrained cannot be made a folder (Not a directory). Choose another --out." in capsys.readouterr().err


def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    config = tmp_path / "train.json"
    config.write_text('{"pretrain": {"epocs": 3}}')
    arguments = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--config", str(config)]
    done = subprocess.run([sys.executable, "-m", "model", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown setting [pretrain] epocs; the nearest known one is 'epochs' in [pretrain].\n"


def test_settings_load_without_torch() -> None:
    code = "import sys, model.config; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(given: str | None, found: str) -> None:
    code = "import os, sys, model.__main__; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{found} False\n", done.stderr


def test_a_full_disk_is_one_sentence(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def save_file(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("model.checkpoint.save_file", save_file)
    config = tmp_path / "train.json"
    config.write_text(json.dumps(SMALL))
    arguments = ["train", "--data", str(tiny_folder), "--out", str(tmp_path / "run"), "--config", str(config)]
    assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: I/O error: No space left on device (os error 28). Make room and run again: what is finished is kept."
    )
