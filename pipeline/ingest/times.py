"""Read times as files write them: numbers since 1970 in several units, ISO 8601, or dates of Parquet."""

from datetime import UTC, datetime

import polars as pl

EARLIEST, LATEST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""A time outside of these is taken for a broken one. Fixed, so that the same file always gives the same rows."""

_DAY_ONE, _LAST_DAY = -62_135_596_800_000, 253_402_300_800_000
_KIND = pl.Datetime("ms", "UTC")
_UNITS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
_ZONED, _ISO = "%Y-%m-%d %H:%M:%S%.f%z", ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
_ANY_ISO = (
    r"^(?P<date>\d{4}-\d\d-\d\d(?:[Tt ] *|$)|\d{8}[Tt ]? *)"
    r"(?:(?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?"
    r" *(?:(?P<sign>[+\-−])(?P<hours>\d\d)(?::?(?P<minutes>\d\d)(?::?(?P<seconds>\d\d))?)?)?)?$"  # noqa: RUF001
)


def read_times(raw: pl.Series, unit: str, of_numbers: str | None = None) -> pl.Series:
    """Return times as UTC milliseconds, null where they cannot be read.

    `of_numbers` is the unit of numbers where `unit` is "auto" (see `number_unit`); by default these values tell it.
    """
    if isinstance(raw.dtype, pl.Date | pl.Datetime):
        zone = getattr(raw.dtype, "time_zone", None)
        raw = raw.cast(pl.Datetime("ms", zone))
        return raw.dt.replace_time_zone("UTC") if zone is None else raw.dt.convert_time_zone("UTC")
    texts = raw.str.strip_chars() if raw.dtype == pl.String else raw
    times = pl.Series([None], dtype=_KIND).new_from_index(0, len(raw))
    written = unit
    numbers = _numbers(raw, unit)
    if numbers.count():
        written = of_numbers or number_unit(raw, unit) or unit
        if written != "iso":
            times = (numbers * _UNITS[written]).round().cast(pl.Int64, strict=False).cast(_KIND)
    if written == "iso" and raw.dtype != pl.String:
        texts = raw.cast(pl.Int64, strict=False).cast(pl.String)
    if texts.dtype == pl.String and times.null_count() and unit in ("auto", "iso"):
        times = times.zip_with(times.is_not_null(), _iso_times(texts))
    return times.rename("time")


def number_unit(raw: pl.Series, unit: str) -> str | None:
    """Return the unit of the numbers among a file's times; None where there are none."""
    if isinstance(raw.dtype, pl.Date | pl.Datetime):
        return None
    numbers = _numbers(raw, unit)
    if not numbers.count():
        return None
    return unit_of(numbers) if unit == "auto" else unit


def _numbers(raw: pl.Series, unit: str) -> pl.Series:
    if unit == "iso":
        return pl.Series(dtype=pl.Float64)
    texts = raw.str.strip_chars() if raw.dtype == pl.String else raw
    return texts.cast(pl.Float64, strict=False).fill_nan(None)


def day_of(time: pl.Series) -> str:
    """Return the day of the only value of `time` for a message, also where no calendar reaches it."""
    milliseconds = int(time.to_physical().item())
    if not _DAY_ONE <= milliseconds < _LAST_DAY:
        return "a day before the year 1" if milliseconds < 0 else "a day after the year 9999"
    return str(time.dt.date().item())


def unit_of(numbers: pl.Series) -> str:
    """Tell the unit of numbers by their size: seconds since 1970 stay below 1e11 until the year 5138.

    "iso" are dates written as one number: YYYYMMDD, and with hours, minutes and seconds. As seconds or milliseconds all
    of them lie outside of the times that are taken.
    """
    middle = abs(float(numbers.median()))  # type: ignore[arg-type]
    if any(EARLIEST.year <= middle / after < LATEST.year for after in (1e4, 1e8, 1e10)):
        return "iso"
    return next((unit for unit, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if middle < limit), "ns")


def _iso_times(texts: pl.Series) -> pl.Series:
    """Read ISO 8601, and PostgreSQL's way of writing it: a date, or a date and a time, with or without an offset.

    The commonest forms are read at once, all others part by part.
    """
    texts = texts.str.replace(r"^(\d{4}-\d\d-\d\d)[Tt]", "$1 ").str.replace(r"\s*(?:[Zz]|UTC|GMT|\[[^\]]*\])$", "")
    times = pl.Series([None], dtype=_KIND).new_from_index(0, len(texts))
    dashed = texts.set(~texts.str.contains(r"^\d{4}-\d\d-\d\d"), None)
    for form in (*_ISO, _ZONED):
        if times.null_count() > dashed.null_count():
            rest = dashed.set(times.is_not_null(), None)
            found = rest.str.to_datetime(form, strict=False, time_unit="ms", time_zone="UTC")
            times = times.zip_with(times.is_not_null(), found)
    rest = texts.set(times.is_not_null(), None)
    return times if rest.null_count() == len(rest) else times.zip_with(times.is_not_null(), _part_by_part(rest))


def _part_by_part(texts: pl.Series) -> pl.Series:
    """Read dates and times with or without marks between their parts; null where a part is out of its range."""
    texts = texts.str.replace(r"^(\d+)\.0+$", "$1")  # a number that was kept as a float
    parts = pl.DataFrame({"text": texts}).select(part=pl.col("text").str.extract_groups(_ANY_ISO)).unnest("part")
    hour, minute, second, hours, minutes, seconds = (
        pl.col(name).cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second", "hours", "minutes", "seconds")
    )
    thousandths = pl.col("fraction").str.slice(0, 3).str.pad_end(3, "0").cast(pl.Int64).fill_null(0)
    ahead = pl.when(pl.col("sign") == "+").then(1).otherwise(-1) * (hours * 3600 + minutes * 60 + seconds)
    passed = (hour * 3600 + minute * 60 + second - ahead) * 1000 + thousandths
    is_time = (hour < 24) | ((hour == 24) & (minute == 0) & (second == 0) & (thousandths == 0))
    is_time &= (minute < 60) & (second <= 60) & (hours < 16) & (minutes < 60) & (seconds < 60)
    day = pl.col("date").str.replace_all(r"\D", "").str.to_date("%Y%m%d", strict=False).cast(pl.Datetime("ms"))
    time = (day.cast(pl.Int64) + passed).cast(_KIND)
    return parts.select(pl.when(is_time).then(time)).to_series()
