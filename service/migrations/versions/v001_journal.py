"""Answers, words of feedback and tallies. Tables as they were then: later changes are migrations of their own."""

import sqlalchemy as sa
from alembic import op

revision = "001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_TEXT = sa.String().with_variant(sa.String(191), "mysql", "mariadb", "mssql", "oracle")


def upgrade() -> None:
    _create_answers()
    op.create_table(
        "words",
        sa.Column("number", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("request_id", _TEXT, nullable=False, index=True),
        sa.Column("answered_us", sa.BigInteger, nullable=False, index=True),
        sa.Column("said_us", sa.BigInteger, nullable=False),
        sa.Column("wnid", _TEXT, nullable=False),
    )
    op.create_table(
        "tallies",
        sa.Column("span", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("backbone", _TEXT, primary_key=True),
        sa.Column("detector", _TEXT, primary_key=True),
        sa.Column("outcome", _TEXT, primary_key=True),
        sa.Column("truth", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("answers", sa.BigInteger, nullable=False),
    )


def _create_answers() -> None:
    box = ("box_x1", "box_y1", "box_x2", "box_y2", "box_score", "box_area")
    timings = ("decode_ms", "queue_ms", "detect_ms", "crop_ms", "classify_ms", "total_ms")
    op.create_table(
        "answers",
        sa.Column("request_id", _TEXT, primary_key=True),
        sa.Column("answered_us", sa.BigInteger, primary_key=True, autoincrement=False, index=True),
        sa.Column("backbone", _TEXT, nullable=False),
        sa.Column("backbone_sha256", _TEXT),
        sa.Column("detector", _TEXT, nullable=False),
        sa.Column("detector_sha256", _TEXT),
        *(sa.Column(name, _TEXT, nullable=False) for name in ("label_space", "box_policy", "outcome")),
        sa.Column("plain_wnid", _TEXT, nullable=False),
        sa.Column("plain_probability", sa.Double, nullable=False),
        sa.Column("cropped_wnid", _TEXT),
        sa.Column("cropped_probability", sa.Double),
        sa.Column("combined_wnid", _TEXT, nullable=False),
        sa.Column("combined_probability", sa.Double, nullable=False),
        sa.Column("arms", sa.JSON),
        *(sa.Column(name, sa.Double) for name in box),
        sa.Column("width", sa.BigInteger, nullable=False),
        sa.Column("height", sa.BigInteger, nullable=False),
        sa.Column("photo_sha256", _TEXT, nullable=False),
        *(sa.Column(name, sa.Double, nullable=False) for name in timings),
        sa.Column("truth", sa.SmallInteger, nullable=False),
        sa.Column("truth_wnid", _TEXT),
    )


def downgrade() -> None:
    for table in ("tallies", "words", "answers"):
        op.drop_table(table)
