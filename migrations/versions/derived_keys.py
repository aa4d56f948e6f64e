"""API keys are hashed under a key derived for that alone, and say under which secret"""

import sqlalchemy as sa
from alembic import op

revision = "derived"
down_revision = "workers_index"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("hashed", sa.String(), nullable=True))
    op.create_unique_constraint(op.f("uq_api_keys_hashed"), "api_keys", ["hashed"])


def downgrade() -> None:
    op.drop_constraint(op.f("uq_api_keys_hashed"), "api_keys", type_="unique")
    op.drop_column("api_keys", "hashed")
