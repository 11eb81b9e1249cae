"""The options of a request: their names, ranges and defaults, for HTTP, OpenAPI and the command alike."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from models.boxes import BoxPolicy
from models.comparison import Arm, Corners, Options
from models.detectors import MAX_BOXES

# A longer name is none that is served, and an error would say it all again.
_MAX_NAME = 200


_Coordinate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_BOX_SCHEMA = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 4, "maxItems": 4}


def _split(value: Any) -> Any:
    """Arms and corners come as a comma list; BentoML's client and JSON may send an array."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _with_area(corners: Corners | None) -> Corners | None:
    if corners is not None and not (corners[0] < corners[2] and corners[1] < corners[3]):
        raise ValueError("is no box: x1,y1,x2,y2 with x1 < x2 and y1 < y2")
    return corners


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
    box: Annotated[
        tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate] | None,
        BeforeValidator(_split),
        AfterValidator(_with_area),
        # BentoML's client looks for the items of every array.
        WithJsonSchema({"anyOf": [_BOX_SCHEMA, {"type": "null"}]}),
    ] = Field(None, description="x1,y1,x2,y2 in pixels of the upright photo: a box in place of the detected one")

    def as_options(self) -> Options:
        return Options(**{**dict(self), "arms": tuple(dict.fromkeys(self.arms))})
