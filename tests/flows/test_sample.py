import importlib.util
import re

import pytest

from data_lake.errors import UserError
from flows.sample import write_sample
from flows.settings import load_settings

KNOBS = ("users=20", "items=40")


def written(folder, *knobs):
    """Return the settings that stand in the file, and what was said about it."""
    lines = write_sample(folder / "sample", folder / "edt.toml", (*KNOBS, *knobs))
    return load_settings(folder / "edt.toml"), lines[-1]


@pytest.fixture
def installed(monkeypatch):
    """Say whether vLLM is installed."""
    real = importlib.util.find_spec

    def pretend(there):
        def find_spec(name, package=None):
            return (object() if there else None) if name == "vllm" else real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return pretend


def test_with_vllm_the_sample_s_settings_name_edt_tiny(tmp_path, installed):
    installed(True)
    settings, said = written(tmp_path)
    assert settings.enrich.generator == "vllm"
    assert (settings.llm.model, settings.llm.max_model_len) == ("edt-tiny", 2048)
    assert (settings.train.loss.synthetic_weight, settings.train.pretrain.batch_size) == (0.3, 32)
    assert said.endswith("settings for them, generator `vllm` with edt-tiny")


def test_without_vllm_they_name_cooccurrence_and_say_so(tmp_path, installed):
    installed(False)
    settings, said = written(tmp_path)
    assert (settings.enrich.generator, settings.llm.model) == ("cooccurrence", "")
    assert (settings.train.loss.synthetic_weight, settings.train.pretrain.batch_size) == ("measured", 32)
    assert said.endswith("generator `cooccurrence`, for vLLM is not installed")


def test_edt_tiny_is_not_asked_about_domains_that_it_does_not_know(tmp_path, installed):
    installed(True)
    settings, said = written(tmp_path, "domains=['food','books']")
    assert settings.enrich.generator == "cooccurrence"
    assert said.endswith("for edt-tiny knows food and kitchen only")


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("imbalence=0.5", "unknown setting imbalence; the nearest known one is 'imbalance'."),
        ("items=0", "items: input should be greater than or equal to "),
    ],
)
def test_a_wrong_knob_is_a_sentence_that_names_the_nearest(tmp_path, knob, message):
    with pytest.raises(UserError, match=re.escape(message)):
        written(tmp_path, knob)
    assert list(tmp_path.iterdir()) == []
