"""Group each domain's catalogue into clusters of similar items.

The centres are kept from run to run: if a new item could move them, every user's prompt would change with it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from data_lake.keyed_cache import KeyedCache
from pipeline.config import ProfileConfig
from pipeline.vectors.catalogue import Catalogue
from pipeline.vectors.kmeans import kmeans, nearest_centre

MOST_POINTS = 50_000
BLOCK = 65_536


def load_or_fit_centres(
    catalogue: Catalogue, cfg: ProfileConfig, domains: Sequence[str], cache: KeyedCache
) -> dict[str, np.ndarray]:
    """Return each domain's centres (k, d): those that `cache` holds, else new ones, which it holds from now on."""
    keys = {domain: _key(catalogue, cfg, domain) for domain in domains}
    held = cache.get(list(keys.values())).to_pylist()
    centres = {row["key"]: np.asarray(row["centres"], dtype=np.float32) for row in held}
    missing = [domain for domain in domains if keys[domain] not in centres and len(catalogue.texts_of(domain))]
    for domain in missing:
        centres[keys[domain]] = fit_clusters(catalogue.vectors[catalogue.texts_of(domain)], cfg).reshape(-1)
    if missing:
        new = [keys[domain] for domain in missing]
        cache.put(pa.table({"key": new, "centres": [centres[key] for key in new]}))
    width = catalogue.vectors.shape[1]
    return {domain: centres[key].reshape(-1, width) for domain, key in keys.items() if key in centres}


def fit_clusters(vectors: np.ndarray, cfg: ProfileConfig) -> np.ndarray:
    """Return at most `cfg.clusters` centres (k, d) of vectors (n, d), started by k-means++ from the seed."""
    rng = np.random.default_rng(cfg.seed)
    if len(vectors) > MOST_POINTS:
        vectors = vectors[np.sort(rng.choice(len(vectors), MOST_POINTS, replace=False))]
    starts = [vectors[rng.integers(len(vectors))]]
    distance = np.full(len(vectors), np.inf)
    while len(starts) < min(cfg.clusters, len(vectors)):
        distance = np.minimum(distance, ((vectors - starts[-1]) ** 2).sum(axis=1, dtype=np.float64))
        if distance.sum() == 0:
            break
        starts.append(vectors[rng.choice(len(vectors), p=distance / distance.sum())])
    centres, _ = kmeans(vectors[None], np.stack(starts)[None])
    return centres[0]


def assign_clusters(catalogue: Catalogue, centres: Mapping[str, np.ndarray]) -> pa.Table:
    """Return (item_id, cluster) for every item with a text: the nearest centre of its domain."""
    rows, clusters = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for domain, known in centres.items():
        items = catalogue.texts_of(domain)
        for first in range(0, len(items), BLOCK):
            block = items[first : first + BLOCK]
            rows.append(block)
            clusters.append(nearest_centre(catalogue.vectors[block][None], known[None])[0])
    ids = catalogue.item_ids.take(pa.array(np.concatenate(rows)))
    return pa.table({"item_id": ids, "cluster": pa.array(np.concatenate(clusters).astype(np.int32))})


def _key(catalogue: Catalogue, cfg: ProfileConfig, domain: str) -> str:
    known = [domain, catalogue.model, catalogue.revision, cfg.clusters, cfg.seed]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
