"""A quota of bytes, and tenants that have left"""

import sqlalchemy as sa
from alembic import op

revision = "removal"
down_revision = "deployment"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("max_bytes", sa.BigInteger(), nullable=True))
    op.add_column("tenants", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("tenants", "deleted_at")
    op.drop_column("tenants", "max_bytes")
