"""edt-tiny: a language model of a million parameters that knows the law of the sample world, and nothing else.

`model/` holds it; `python -m pipeline.edt_tiny.train` makes it anew, for example after a change of the prompts.
"""

from pathlib import Path

DOMAINS = ("food", "kitchen")
"""What it knows."""
POSITIONS = 2048
"""Tokens that a prompt and its answer may have."""


def get_model_path() -> Path:
    """Return the folder of the model: config, weights in safetensors, tokenizer with its chat template."""
    return Path(__file__).parent / "model"
