"""The options of a request: their names, ranges and defaults, for HTTP, OpenAPI and the command alike."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from models.boxes import BoxPolicy
from models.comparison import Arm, Options
from models.detectors import MAX_BOXES

# A longer name is none that is served, and an error would say it all again.
_MAX_NAME = 200


def _split(value: Any) -> Any:
    """Arms come as a comma list; BentoML's client and JSON may send an array."""
    return [arm.strip() for arm in value.split(",") if arm.strip()] if isinstance(value, str) else value


class OptionFields(BaseModel):
    """Raises `pydantic.ValidationError` for a value out of range, and for a name that is none of these."""

    model_config = ConfigDict(extra="forbid")

    backbone: str | None = Field(
        None, max_length=_MAX_NAME, description="a served backbone's name; default: the first served"
    )
    detector: str | None = Field(
        None, max_length=_MAX_NAME, description="a served detector's name; default: the first served"
    )
    box_policy: BoxPolicy = Field("rescored", description="which of several boxes is the crop")
    margin: float | None = Field(
        None, ge=0, le=1, description="share of the box's longer side added on every side; default: tuned"
    )
    min_score: float | None = Field(None, ge=0, le=1, description="least score of a box; default: tuned")
    max_boxes: int = Field(1, ge=1, le=MAX_BOXES, description="how many boxes the answer may list")
    top_k: int = Field(5, ge=1, le=100, description="how many classes a prediction lists")
    label_space: str | None = Field(
        None, max_length=_MAX_NAME, description="a served label space; default: the backbone's own"
    )
    arms: Annotated[tuple[Arm, ...], BeforeValidator(_split)] = Field((), description="further arms, a comma list")

    def as_options(self) -> Options:
        return Options(**{**dict(self), "arms": tuple(dict.fromkeys(self.arms))})
