"""The index of the lanes holds only what has a number."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NAME, COLUMNS = "ix_arus_change_lane", ["topic", "seq"]


def upgrade() -> None:
    numbered = sa.text("seq IS NOT NULL")
    op.drop_index(NAME, "arus_change")
    op.create_index(
        NAME, "arus_change", COLUMNS, unique=True, sqlite_where=numbered, postgresql_where=numbered
    )


def downgrade() -> None:
    op.drop_index(NAME, "arus_change")
    op.create_index(NAME, "arus_change", COLUMNS, unique=True)
