"""The ground that all sections of a preset stand on: frozen data that refuses keys it does not know."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

NAME = r"^[a-z0-9][a-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=64)]
Text = Annotated[str, Field(min_length=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Section(BaseModel):
    """A frozen mapping that refuses keys it does not know and says which ones it does."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        unknown = [str(key) for key in data if key not in cls.model_fields]
        if unknown:
            close = difflib.get_close_matches(unknown[0], cls.model_fields, n=1)
            raise PydanticCustomError(
                "unknown_key",
                "unknown key {keys}{close}; allowed: {allowed}",
                {
                    "keys": ", ".join(repr(key) for key in unknown),
                    "close": f" (did you mean '{close[0]}'?)" if close else "",
                    "allowed": ", ".join(cls.model_fields),
                },
            )
        return data
