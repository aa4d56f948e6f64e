"""Which deployment the database is of, and stored bytes that are to be deleted"""

import sqlalchemy as sa
from alembic import op

revision = "deployment"
down_revision = "derived"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deployment",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("store_url", sa.String(), nullable=True),
        sa.CheckConstraint("one", name=op.f("ck_deployment_one")),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_deployment")),
    )
    op.create_table(
        "deletions",
        sa.Column("key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_deletions")),
    )


def downgrade() -> None:
    op.drop_table("deletions")
    op.drop_table("deployment")
