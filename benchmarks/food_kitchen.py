"""Where food-kitchen and food-kitchen-imbalanced lie, and settings for them as they are, without enrichment."""

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


IMBALANCED = """\
dataset = "food-kitchen-imbalanced"
[data]
interactions = {interactions}
items = {items}
times = "order"
[split]
by = "queries"
validation_queries = {queries-validation}
test_queries = {queries-test}
[enrich]
generator = "none"
[lake]
root = "store"
keep = 20
"""
"""All users but those of the queries are trained on, and most of them live in one domain."""

PARTS = ("interactions", "items", "queries-validation", "queries-test")


def food_kitchen() -> Path:
    """Return the folder of food-kitchen, $EDT_DATA/food-kitchen; end the command where the variable is not set."""
    return _folder("food-kitchen")


def write_settings(folder: Path, is_imbalanced: bool = False, data: Path | None = None) -> Path:
    """Write the settings file into `folder`, whose artifacts lie beside it, and return its path.

    `data` holds the files; None: the folder in $EDT_DATA.
    """
    name, settings = ("food-kitchen-imbalanced", IMBALANCED) if is_imbalanced else ("food-kitchen", SETTINGS)
    data, file = (data or _folder(name)).resolve(), folder / f"{name}.toml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(settings.format(**{part: json.dumps(str(data / f"{part}.parquet")) for part in PARTS}), "utf-8")
    return file


def _folder(name: str) -> Path:
    data = os.environ.get("EDT_DATA")
    if not data:
        raise SystemExit(
            f"EDT_DATA is not set. Set it to the folder that holds {name}/interactions.parquet and "
            f"{name}/items.parquet."
        )
    return Path(data).resolve() / name
