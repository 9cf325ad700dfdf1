"""Profiles by template, for generators without a language model."""

from collections.abc import Sequence

from pipeline.llm.generator import DomainProfileQuestion, DomainSummary

GROUPS, TITLES_PER_GROUP = 3, 1
"""How much a profile by template says: its text is embedded, and long texts cost minutes on a CPU."""


def domain_profile(question: DomainProfileQuestion) -> str:
    """Say what the user's largest groups of items in a domain are, by a title of each."""
    groups = sorted((group for group in question.groups if group), key=len, reverse=True)
    if not groups:
        return f"{question.domain}: nothing is known."
    known = "inferred, no action yet" if question.inferred else f"{question.evidence} actions"
    opening = f"{question.domain} ({known}): mostly "
    words = question.words - len(opening.split())
    likes: list[str] = []
    for titles in groups[:GROUPS]:
        like = " and ".join(dict.fromkeys(titles[:TITLES_PER_GROUP]))
        words -= len(like.split())
        if likes and words < 0:
            break
        likes.append(like)
    return opening + "; ".join(likes) + "."


def user_profile(summaries: Sequence[DomainSummary]) -> str:
    """Put the domains' profiles one after the other, the best known first; an inferred one only where all are."""
    known = [summary for summary in summaries if summary.evidence] or list(summaries)
    return " ".join(summary.text for summary in sorted(known, key=lambda summary: -summary.evidence))


def shortened(text: str, longest: int | None) -> str:
    """Return the text, cut to `longest` characters."""
    return text if longest is None or len(text) <= longest else text[: longest - 1].rstrip() + "…"
