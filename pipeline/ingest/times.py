"""Read times as files write them: numbers since 1970 in several units, ISO 8601, or dates of Parquet."""

import polars as pl

_UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_ZONED, _ISO = "%Y-%m-%d %H:%M:%S%.f%z", ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")


def read_times(raw: pl.Series, unit: str) -> pl.Series:
    """Return a file's times as UTC milliseconds, null where they cannot be read."""
    kind = pl.Datetime("ms", "UTC")
    if isinstance(raw.dtype, pl.Date | pl.Datetime):
        zone = getattr(raw.dtype, "time_zone", None)
        raw = raw.cast(pl.Datetime("ms", zone))
        return raw.dt.replace_time_zone("UTC") if zone is None else raw.dt.convert_time_zone("UTC")
    texts = raw.str.strip_chars() if raw.dtype == pl.String else raw
    numbers = texts.cast(pl.Float64, strict=False).fill_nan(None) if unit != "iso" else raw.clear(len(raw))
    times = pl.Series([None], dtype=kind).new_from_index(0, len(raw))
    if numbers.null_count() < len(numbers):
        factor = _UNITS[unit_of(numbers) if unit == "auto" else unit]
        times = (numbers * factor).round().cast(pl.Int64, strict=False).cast(kind)
    if raw.dtype == pl.String and times.null_count() and unit in ("auto", "iso"):
        times = times.zip_with(times.is_not_null(), _iso_times(texts))
    return times.rename("time")


def unit_of(numbers: pl.Series) -> str:
    """Tell the unit of times since 1970 by their size: seconds stay below 1e11 until the year 5138."""
    middle = abs(float(numbers.median()))  # type: ignore[arg-type]
    return next((unit for unit, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if middle < limit), "ns")


def _iso_times(texts: pl.Series) -> pl.Series:
    """Read ISO 8601: a date, or a date and a time, with or without an offset."""
    texts = texts.str.replace(r"^(\d{4}-\d\d-\d\d)[Tt]", "$1 ").str.replace(r"\s*(?:[Zz]|UTC)$", "")
    times = pl.Series([None], dtype=pl.Datetime("ms", "UTC")).new_from_index(0, len(texts))
    texts = texts.set(~texts.str.contains(r"^\d{4}-\d\d-\d\d"), None)
    for form in (*_ISO, _ZONED):
        if times.null_count() > texts.null_count():
            rest = texts.set(times.is_not_null(), None)
            found = rest.str.to_datetime(form, strict=False, time_unit="ms", time_zone="UTC")
            times = times.zip_with(times.is_not_null(), found)
    return times
