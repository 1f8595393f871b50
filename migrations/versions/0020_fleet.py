"""What the pages ashore show of each vessel: since when it is online, when it spoke, audits, and its latest events."""

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

NEW = ("online_since", "spoke_at", "behind_since", "audited_at", "equal_at")


def upgrade() -> None:
    for name in NEW:
        op.add_column("arus_vessel", sa.Column(name, sa.BigInteger()))
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "arus_vessel_event",
        sa.Column("id", number, autoincrement=True, nullable=False),
        sa.Column("vessel_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("entity", sa.String(length=64), server_default="", nullable=False),
        sa.Column("seq", sa.BigInteger()),
        sa.Column("items", sa.BigInteger()),
        sa.Column("equal", sa.Boolean()),
        sa.Column("differing", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_arus_vessel_event"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_arus_vessel_event_vessel", "arus_vessel_event", ["vessel_id", "id"])
    _fill()


def _fill() -> None:
    """Set the times that the tables already tell: those of the last audit, and of the last message."""
    vessel = sa.table(
        "arus_vessel",
        *(sa.column(name) for name in ("vessel_id", "audit", "heard_at", *NEW)),
    )
    connection = op.get_bind()
    connection.execute(sa.update(vessel).values(spoke_at=vessel.c.heard_at))
    audited = sa.select(vessel.c.vessel_id, vessel.c.audit).where(vessel.c.audit.is_not(None))
    for vessel_id, audit in connection.execute(audited).all():
        at, equal = _verdict(audit)
        connection.execute(
            sa.update(vessel)
            .where(vessel.c.vessel_id == vessel_id)
            .values(audited_at=at, equal_at=at if equal else None)
        )


def _verdict(audit: str) -> tuple[int | None, bool]:
    try:
        told = json.loads(audit)
        moment = datetime.fromisoformat(told["timestamp"])
        equal = bool(told["equal"])
    except (ValueError, TypeError, KeyError):
        return None, False
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000), equal


def downgrade() -> None:
    op.drop_table("arus_vessel_event")
    with op.batch_alter_table("arus_vessel") as batch:
        for name in NEW:
            batch.drop_column(name)
