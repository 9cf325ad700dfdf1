"""Where the dataset food-kitchen lies, and settings for it as it is, without enrichment."""

import json
import os
from pathlib import Path

SETTINGS = """\
dataset = "food-kitchen"
[data]
interactions = {interactions}
items = {items}
[enrich]
generator = "none"
[lake]
root = "store"
keep = 20
"""


def food_kitchen() -> Path:
    """Return the folder of food-kitchen, $EDT_DATA/food-kitchen; end the command where the variable is not set."""
    data = os.environ.get("EDT_DATA")
    if not data:
        raise SystemExit(
            "EDT_DATA is not set. Set it to the folder that holds food-kitchen/interactions.parquet and "
            "food-kitchen/items.parquet."
        )
    return Path(data).resolve() / "food-kitchen"


def write_settings(folder: Path) -> Path:
    """Write the settings file into `folder`, whose artifacts lie beside it, and return its path."""
    data, file = food_kitchen(), folder / "food-kitchen.toml"
    paths = {name: json.dumps(str(data / f"{name}.parquet")) for name in ("interactions", "items")}
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(SETTINGS.format(**paths), encoding="utf-8")
    return file
