"""Jobs that have ended by how, for the metrics"""

from expunge.migrations import indices

revision = "ended_index"
down_revision = "signing"
branch_labels = None
depends_on = None


def upgrade() -> None:
    indices.create("ix_jobs_ended", "jobs", ["status"], "finished_at is not null")


def downgrade() -> None:
    indices.drop("ix_jobs_ended", "jobs")
