"""Uploads as they are listed, and old jobs"""

from sqlalchemy import literal_column

from expunge.migrations import indices

revision = "removal_indices"
down_revision = "removal"
branch_labels = None
depends_on = None

NEWEST = [literal_column("created_at desc"), literal_column("id desc")]
INDICES = {
    "ix_artifacts_uploads": (
        "artifacts",
        ["tenant_id", *NEWEST],
        "job_id is null and revoked_at is null and expired_at is null",
    ),
    "ix_jobs_finished": ("jobs", ["finished_at"], "finished_at is not null"),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDICES.items():
        indices.create(name, table, columns, where)


def downgrade() -> None:
    for name, (table, *_) in reversed(INDICES.items()):
        indices.drop(name, table)
