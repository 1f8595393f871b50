"""A row ashore belongs to one vessel; a topic's position knows up to where it was proved."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Who came first is not known of rows that two vessels have written already: one that has the row wins over
# one that has deleted it, then the lesser name. The next audit brings the owner's row back.
FIRST = (
    "SELECT o.vessel_id FROM arus_row o WHERE o.entity = arus_row.entity AND o.row_id = arus_row.row_id"
    " ORDER BY o.deleted, o.vessel_id LIMIT 1"
)


def upgrade() -> None:
    op.add_column(
        "arus_row", sa.Column("owner", sa.String(length=64), server_default="", nullable=False)
    )
    op.create_index("ix_arus_row_entity_row", "arus_row", ["entity", "row_id"], unique=False)
    op.add_column(
        "arus_position",
        sa.Column("proven_seq", sa.BigInteger(), server_default="0", nullable=False),
    )
    rows = op.get_bind().execute(
        sa.text(
            f"SELECT vessel_id, entity, row_id, ({FIRST}) AS owner FROM arus_row WHERE"  # noqa: S608
            " (entity, row_id) IN (SELECT entity, row_id FROM arus_row GROUP BY entity, row_id"
            " HAVING COUNT(*) > 1)"
        )
    )
    claims = [dict(row) for row in rows.mappings() if row["owner"] != row["vessel_id"]]
    if claims:
        claim = sa.text(
            "UPDATE arus_row SET owner = :owner WHERE vessel_id = :vessel_id AND entity = :entity"
            " AND row_id = :row_id"
        )
        op.get_bind().execute(claim, claims)


def downgrade() -> None:
    op.drop_column("arus_position", "proven_seq")
    op.drop_index("ix_arus_row_entity_row", table_name="arus_row")
    op.drop_column("arus_row", "owner")
