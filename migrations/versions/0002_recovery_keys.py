"""Recovery keys: artifacts of a kind, revocable, every read noted"""

import sqlalchemy as sa
from alembic import op

from expunge.migrations import tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    tables.hold()
    op.add_column("artifacts", sa.Column("kind", sa.String(), server_default="file", nullable=False))
    op.add_column("artifacts", sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "artifact_reads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("artifact_id", sa.Uuid(), nullable=False),
        sa.Column("api_key_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("stop", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifacts.id"], name=op.f("fk_artifact_reads_artifact_id_artifacts")
        ),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_keys.id"], name=op.f("fk_artifact_reads_api_key_id_api_keys")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifact_reads")),
    )
    op.create_index(
        "ix_artifact_reads_page",
        "artifact_reads",
        ["artifact_id", sa.literal_column("created_at desc"), sa.literal_column("id desc")],
        unique=False,
    )


def downgrade() -> None:
    tables.hold()
    op.drop_index("ix_artifact_reads_page", table_name="artifact_reads")
    op.drop_table("artifact_reads")
    op.drop_column("artifacts", "revoked_at")
    op.drop_column("artifacts", "kind")
