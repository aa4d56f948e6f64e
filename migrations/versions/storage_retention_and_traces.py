"""Artifacts that expire and are verified; the request and trace that a job came from"""

import sqlalchemy as sa
from alembic import op

from expunge.migrations import tables

revision = "storage"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    tables.hold()
    for name in ("expired_at", "corrupt_at"):
        op.add_column("artifacts", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "artifacts",
        sa.Column("verified_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
    )
    for name in ("request_id", "trace"):
        op.add_column("jobs", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    tables.hold()
    for name in ("trace", "request_id"):
        op.drop_column("jobs", name)
    for name in ("verified_at", "corrupt_at", "expired_at"):
        op.drop_column("artifacts", name)
