"""How box areas and confidence shifts are spread, by the hour and the day; answers from before are in none."""

import sqlalchemy as sa
from alembic import op

revision = "002"
down_revision = "001"

_TEXT = sa.String().with_variant(sa.String(191), "mysql", "mariadb", "mssql", "oracle")


def upgrade() -> None:
    op.create_table(
        "spreads",
        sa.Column("span", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("backbone", _TEXT, primary_key=True),
        sa.Column("detector", _TEXT, primary_key=True),
        sa.Column("measure", _TEXT, primary_key=True),
        sa.Column("bin", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("answers", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("spreads")
