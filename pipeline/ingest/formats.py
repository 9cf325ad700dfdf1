"""The input formats that are known by name: what they call our columns, and the unit of their times.

A new one is one line of FORMATS.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """The names of the columns in an interactions file, the items file's id among them, and the unit of times."""

    user_id: str
    item_id: str
    timestamp: str
    rating: str
    timestamp_unit: str


BY_COLUMNS = "columns"
"""The format whose columns the settings name."""

_AMAZON_2014 = Format("reviewerID", "asin", "unixReviewTime", "overall", "s")

FORMATS = {
    "amazon-2014": _AMAZON_2014,
    "amazon-2018": _AMAZON_2014,
    "amazon-2023": Format("user_id", "parent_asin", "timestamp", "rating", "ms"),
}
