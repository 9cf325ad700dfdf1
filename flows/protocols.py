"""What a protocol's name does not tell: where a sample of negatives is the whole domain."""

from collections.abc import Mapping, Sequence

from model.evaluation.candidates import FULL, negatives


def notes_on_protocols(candidates: Mapping[tuple[str, str], float]) -> list[str]:
    """Return a sentence per sampled protocol that is the full ranking in some domains.

    candidates: mean number of a target's candidates, itself included, by protocol and domain.

    >>> notes_on_protocols({("sampled-999", "food"): 186.2, ("sampled-999", "books"): 1000.0})
    ['sampled-999 is the full ranking in food, which has fewer items than that.']
    >>> notes_on_protocols({("sampled-999", name): 90.0 for name in ("food", "wine", "books")})
    ['sampled-999 is the full ranking in food, wine and books, which have fewer items than that.']
    """
    found: dict[str, list[str]] = {}
    for (protocol, domain), mean in candidates.items():
        sample = negatives(protocol)
        if sample is not None and mean < sample + 1 and mean == candidates.get((FULL, domain), mean):
            found.setdefault(protocol, []).append(domain)
    return [
        f"{protocol} is the full ranking in {_listed(domains)}, which "
        f"{'has' if len(domains) == 1 else 'have'} fewer items than that."
        for protocol, domains in found.items()
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
