"""The latest answers, for people who look at what the experiment counts: never photos, only what was said of them."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import RowMapping, Select, and_, false, not_, select

from models.label_spaces import LabelSpace
from service.database import Database
from service.feedback import FindSpace
from service.rows import RIGHT, UNLABELLED, Answer

# So many of the latest answers are looked through; a journal of millions must not be.
_LOOKED_AT = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Which: TypeAlias = Literal[
    "agree", "disagree", "no_detection", "covers_image", "labelled", "unlabelled", "rescued", "broken"
]


class Wanted(BaseModel):
    """The query of GET /answers. Raises `pydantic.ValidationError`."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=500, description="how many answers at most")
    which: Which | None = Field(None, description="an outcome, or what feedback made of it; default: all")
    backbone: Annotated[str, Field(max_length=200)] | None = Field(None, description="answers with this backbone")


def recent(database: Database, wanted: Wanted, space: FindSpace) -> list[dict[str, Any]]:
    """The latest first, of the latest 10,000. `space` gives the label space of a backbone and a label space's name.

    Raises `service.database.DatabaseAway`.
    """
    with database.reading() as connection:
        found = connection.execute(_statement(wanted)).mappings().all()
    return [_told(row, space(row["backbone"], row["label_space"])) for row in found]


def _statement(wanted: Wanted) -> Select[Any]:
    newest = select(Answer.__table__).order_by(Answer.answered_us.desc()).limit(_LOOKED_AT).subquery()
    plain, cropped = (newest.c.truth.op("&")(RIGHT[arm]) != 0 for arm in ("plain", "cropped"))
    told = newest.c.truth != UNLABELLED
    conditions = {
        "labelled": told,
        "unlabelled": not_(told),
        "rescued": and_(told, cropped, not_(plain)),
        "broken": and_(told, plain, not_(cropped)),
    }
    statement = select(newest).order_by(newest.c.answered_us.desc()).limit(wanted.limit)
    if wanted.backbone is not None:
        named = newest.c.backbone == wanted.backbone
        # PostgreSQL refuses a text with a NUL.
        statement = statement.where(named if wanted.backbone.isprintable() else false())
    if wanted.which is not None:
        statement = statement.where(conditions.get(wanted.which, newest.c.outcome == wanted.which))
    return statement


def _told(row: RowMapping, space: LabelSpace | None) -> dict[str, Any]:
    told = row["truth"] != UNLABELLED
    return {
        "request_id": row["request_id"],
        "answered": (_EPOCH + timedelta(microseconds=row["answered_us"])).isoformat().replace("+00:00", "Z"),
        **{name: row[name] for name in ("backbone", "detector", "label_space", "box_policy", "outcome")},
        **{arm: _class(row, arm, space) for arm in RIGHT},
        "truth": {"wnid": row["truth_wnid"], "label": _label(row["truth_wnid"], space)} if told else None,
        "correct": {arm: bool(row["truth"] & bit) for arm, bit in RIGHT.items()} if told else None,
        "total_ms": row["total_ms"],
    }


def _class(row: RowMapping, arm: str, space: LabelSpace | None) -> dict[str, Any] | None:
    wnid = row[f"{arm}_wnid"]
    if wnid is None:
        return None
    return {"wnid": wnid, "label": _label(wnid, space), "probability": row[f"{arm}_probability"]}


def _label(wnid: str, space: LabelSpace | None) -> str | None:
    """None for a class of a label space that is not served here any more."""
    index = None if space is None else space.find(wnid)
    return None if space is None or index is None else space.labels[index]
