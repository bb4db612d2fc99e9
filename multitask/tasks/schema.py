"""What pieces of YAML are checked by: a strict model, and numbers within their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from multitask.tasks.validating import told

Positive = Annotated[int, Field(ge=1, strict=True)]
Above0 = Annotated[float, Field(gt=0, strict=True)]
AtLeast0 = Annotated[float, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(ge=0, lt=1, strict=True)]


class Strict(BaseModel):
    """A mapping whose keys are all known, and whose numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # who checks types goes by the fields

        def __init__(self, /, **given: Any) -> None:
            try:
                super().__init__(**given)
            except ValidationError as error:
                raise told(error, type(self), given, type(self).__name__) from None

        # Without it pydantic would call __init__ for mappings inside others too, and lose where in a file they stand.
        __init__.__pydantic_base_init__ = True
