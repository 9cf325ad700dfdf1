"""edt-tiny: a language model of a million parameters that knows the law of the sample world, and nothing else.

`model/` holds it; `python -m pipeline.sample_world.edt_tiny.train` trains it again, as after a change of the prompts.
"""

from pathlib import Path

DOMAINS = ("food", "kitchen")
"""What it knows."""
POSITIONS = 2048
"""Tokens that a prompt and its answer may have."""


def get_model_path() -> Path:
    """Return the folder of the model: config, weights in safetensors, tokenizer with its chat template."""
    return Path(__file__).parent / "model"
