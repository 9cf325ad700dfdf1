"""The base of every settings class."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Settings that cannot change once read and refuse a key that they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
