"""Artifacts that expire and are verified; the request and trace that a job came from"""

import sqlalchemy as sa
from alembic import op

revision = "storage"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("expired_at", "corrupt_at"):
        op.add_column("artifacts", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("artifacts", sa.Column("verified_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False))
    op.create_index("ix_artifacts_corrupt", "artifacts", ["corrupt_at"], unique=False, postgresql_where=sa.text("corrupt_at is not null"))
    op.create_index(op.f("ix_artifacts_verified_at"), "artifacts", ["verified_at"], unique=False)
    for name in ("request_id", "trace"):
        op.add_column("jobs", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    for name in ("trace", "request_id"):
        op.drop_column("jobs", name)
    op.drop_index(op.f("ix_artifacts_verified_at"), table_name="artifacts")
    op.drop_index("ix_artifacts_corrupt", table_name="artifacts", postgresql_where=sa.text("corrupt_at is not null"))
    for name in ("verified_at", "corrupt_at", "expired_at"):
        op.drop_column("artifacts", name)
