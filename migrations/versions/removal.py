"""A quota of bytes, tenants that have left, and the indices by which uploads are listed and old jobs found"""

import sqlalchemy as sa
from alembic import op

revision = "removal"
down_revision = "deployment"
branch_labels = None
depends_on = None

UPLOADS = sa.text("job_id is null and revoked_at is null and expired_at is null")
NEWEST = [sa.literal_column("created_at desc"), sa.literal_column("id desc")]


def upgrade() -> None:
    op.add_column("tenants", sa.Column("max_bytes", sa.BigInteger(), nullable=True))
    op.add_column("tenants", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_artifacts_uploads", "artifacts", ["tenant_id", *NEWEST], postgresql_where=UPLOADS)
    op.create_index("ix_jobs_finished", "jobs", ["finished_at"], postgresql_where=sa.text("finished_at is not null"))


def downgrade() -> None:
    op.drop_index("ix_jobs_finished", table_name="jobs")
    op.drop_index("ix_artifacts_uploads", table_name="artifacts")
    op.drop_column("tenants", "deleted_at")
    op.drop_column("tenants", "max_bytes")
