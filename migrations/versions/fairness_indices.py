"""The indices that keep claiming flat"""

from expunge.migrations import indices

revision = "fairness_indices"
down_revision = "fairness"
branch_labels = None
depends_on = None

QUEUED, ACTIVE = "status = 'queued'", "status in ('queued','running','cancelling')"
INDICES = {
    "ix_jobs_queued": ("jobs", ["tenant_id", "available_at", "id"], QUEUED),
    "ix_jobs_unannounced": ("jobs", ["tenant_id", "dispatched_at", "available_at"], QUEUED),
    "ix_jobs_held": ("jobs", ["tenant_id", "lease_expires_at"], "status in ('running','cancelling')"),
    "ix_jobs_queue_deadline": (
        "jobs",
        ["queue_deadline_at"],
        f"{QUEUED} and started_at is null and queue_deadline_at is not null",
    ),
    "ix_jobs_run_deadline": ("jobs", ["run_deadline_at"], f"{ACTIVE} and run_deadline_at is not null"),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDICES.items():
        indices.create(name, table, columns, where)


def downgrade() -> None:
    for name, (table, *_) in reversed(INDICES.items()):
        indices.drop(name, table)
