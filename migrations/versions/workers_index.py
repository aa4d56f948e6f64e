"""Queued jobs by the model they need"""

from sqlalchemy import text

from expunge.migrations import indices

revision = "workers_index"
down_revision = "workers"
branch_labels = None
depends_on = None

INDICES = {
    "ix_jobs_queued_model": (
        "jobs",
        [text("coalesce(spec ->> 'model', '')"), "tenant_id", "available_at", "id"],
        "status = 'queued'",
    ),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDICES.items():
        indices.create(name, table, columns, where)


def downgrade() -> None:
    for name, (table, *_) in reversed(INDICES.items()):
        indices.drop(name, table)
