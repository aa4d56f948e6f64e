"""A fair queue: whose turn it is, quotas of tenants, and pauses"""

import sqlalchemy as sa
from alembic import op

from expunge.migrations import tables

revision = "fairness"
down_revision = "webhooks"
branch_labels = None
depends_on = None

QUOTAS = ("max_active_jobs", "max_running_jobs", "max_jobs_a_day")


def upgrade() -> None:
    tables.hold()
    for name in QUOTAS:
        op.add_column("tenants", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("tenants", sa.Column("last_started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("run_left", sa.Interval(), nullable=True))
    op.create_table(
        "usage",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_usage_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_usage")),
    )
    op.create_table(
        "pauses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=True),
        sa.Column("hand_over", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.String(), server_default="", nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_pauses_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pauses")),
        sa.UniqueConstraint(
            "tenant_id", name=op.f("uq_pauses_tenant_id"), postgresql_nulls_not_distinct=True
        ),
    )


def downgrade() -> None:
    tables.hold()
    op.drop_table("pauses")
    op.drop_table("usage")
    op.drop_column("jobs", "run_left")
    for name in ("last_started_at", *reversed(QUOTAS)):
        op.drop_column("tenants", name)
