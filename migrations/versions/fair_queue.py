"""A fair queue: whose turn it is, quotas of tenants, pauses, and the indices that keep claiming flat"""

import sqlalchemy as sa
from alembic import op

revision = "fairness"
down_revision = "webhooks"
branch_labels = None
depends_on = None

QUOTAS = ("max_active_jobs", "max_running_jobs", "max_jobs_a_day")
QUEUED, ACTIVE = "status = 'queued'", "status in ('queued','running','cancelling')"
INDICES = {
    "ix_jobs_queued": (["tenant_id", "available_at", "id"], QUEUED),
    "ix_jobs_unannounced": (["tenant_id", "dispatched_at", "available_at"], QUEUED),
    "ix_jobs_held": (["tenant_id", "lease_expires_at"], "status in ('running','cancelling')"),
    "ix_jobs_queue_deadline": (["queue_deadline_at"], f"{QUEUED} and started_at is null and queue_deadline_at is not null"),
    "ix_jobs_run_deadline": (["run_deadline_at"], f"{ACTIVE} and run_deadline_at is not null"),
}


def upgrade() -> None:
    for name in QUOTAS:
        op.add_column("tenants", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("tenants", sa.Column("last_started_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("run_left", sa.Interval(), nullable=True))
    for name, (columns, where) in INDICES.items():
        op.create_index(name, "jobs", columns, unique=False, postgresql_where=sa.text(where))
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
        sa.UniqueConstraint("tenant_id", name=op.f("uq_pauses_tenant_id"), postgresql_nulls_not_distinct=True),
    )


def downgrade() -> None:
    op.drop_table("pauses")
    op.drop_table("usage")
    for name in reversed(INDICES):
        op.drop_index(name, table_name="jobs")
    op.drop_column("jobs", "run_left")
    for name in ("last_started_at", *reversed(QUOTAS)):
        op.drop_column("tenants", name)
