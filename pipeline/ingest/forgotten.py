"""What the lake remembers of users who left, so that files which still hold their actions do not bring them back."""

import hashlib

import pyarrow as pa

from data_lake.keyed_cache import KeyedCache

FORGOTTEN = "forgotten"
"""The name of the dataset's cache whose keys are these users, and the reason why ingest refuses their rows."""


def hash_user(user_id: str) -> str:
    """Return the SHA-256 of a user's id, in hexadecimal."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def remember_to_forget(user_id: str, cache: KeyedCache) -> None:
    """Add a user to those whose rows ingest refuses."""
    cache.put(pa.table({"key": [hash_user(user_id)]}))
