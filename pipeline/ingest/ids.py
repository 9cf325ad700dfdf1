"""Read ids and names of domains: as text, the same one always as the same text."""

import polars as pl

MISSING_WORDS = ("nan", "null", "none", "na", "n/a", "<na>", "nat", "\\n")
"""What programs write where there is no value; compared without case."""

_WHOLE = r"^-?\d+\.0+$"
_INTEGER = r"^(?:0|-?[1-9]\d*)$"
_HEAD = 1000


def read_ids(raw: pl.Series, are_floats: bool = False) -> pl.Series:
    """Return ids as text without outer white space, null where nothing is left.

    Whole numbers that were kept as floats are written as integers: those of a column of floats, and those of a file's
    texts that `are_floats` (see `all_kept_as_floats`).
    """
    if raw.dtype.is_float():
        return _digits(raw)
    texts = _stripped(raw)
    return texts.str.replace(r"\.0+$", "") if are_floats else texts


def all_kept_as_floats(raw: pl.Series) -> bool:
    """Say whether all texts of a column end in ".0", as those of whole numbers do that were kept as floats."""
    if raw.dtype != pl.String:
        return False
    texts = _stripped(raw).drop_nulls()
    return bool(texts.head(_HEAD).str.contains(_WHOLE).all() and texts.str.contains(_WHOLE).all())


def missing_words(ids: pl.Series) -> dict[str, int]:
    """Return how often each id or name stands there that is a word for a missing one."""
    words = ids.filter(ids.str.len_bytes() <= max(map(len, MISSING_WORDS)))
    words = words.filter(is_missing_word(words))
    return dict(sorted(words.value_counts().iter_rows()))


def is_missing_word(texts: pl.Series) -> pl.Series:
    """Say of each text whether it is a word for a missing value."""
    return texts.str.strip_chars().str.to_lowercase().is_in(MISSING_WORDS).fill_null(False)


def written_otherwise(unknown: pl.Series, known: pl.Series) -> dict[str, str]:
    """Return {unknown id: known id} of those that are one number written in two ways, or differ in case alone."""
    found: dict[str, str] = {}
    for alike in (lambda ids: ids.str.to_lowercase(), _as_number):
        ids = pl.DataFrame({"unknown": unknown.unique(maintain_order=True)}).with_columns(key=alike(pl.col("unknown")))
        others = pl.DataFrame({"known": known.unique(maintain_order=True)}).with_columns(key=alike(pl.col("known")))
        pairs = ids.join(others.unique("key", keep="first", maintain_order=True), "key", maintain_order="left")
        exact = pl.all_horizontal(pl.col("unknown", "known").str.contains(_INTEGER))  # two integers are two ids
        found = dict(pairs.filter(~exact).select("unknown", "known").iter_rows()) | found
    return found


def _as_number(ids: pl.Expr) -> pl.Expr:
    number = ids.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number + 0.0)


def _stripped(raw: pl.Series) -> pl.Series:
    return raw.cast(pl.String).str.strip_chars().replace("", None)


def _digits(raw: pl.Series) -> pl.Series:
    """Write floats as texts, whole ones as integers without an exponent; null where there is no number."""
    values = raw.cast(pl.Float64)
    values = values.set(~values.is_finite(), None)
    is_whole = (values == values.floor()).fill_null(False)
    is_small = is_whole & (values.abs() < 2.0**63).fill_null(False)
    texts = raw.cast(pl.String).set(values.is_null(), None)
    texts = values.set(~is_small, None).cast(pl.Int64).cast(pl.String).zip_with(is_small, texts)
    large = (is_whole & ~is_small).arg_true()
    return texts.scatter(large, [str(int(value)) for value in values.gather(large)]) if len(large) else texts
