"""The log keeps the versions of rows whose models have no version column."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "arus_row_version",
        sa.Column("entity", sa.String(length=64), nullable=False),
        sa.Column("row_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("entity", "row_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("arus_row_version")
