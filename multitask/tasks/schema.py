"""What pieces of YAML are checked by: a strict model, and numbers within their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, strict=True)]
Above0 = Annotated[float, Field(gt=0, strict=True)]
AtLeast0 = Annotated[float, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(ge=0, lt=1, strict=True)]


class Strict(BaseModel):
    """A mapping whose keys are all known, and whose numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
