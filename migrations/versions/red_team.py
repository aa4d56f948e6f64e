"""The standing red team: its policy, its jobs, and its verdicts"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from expunge.migrations import tables

revision = "red_team"
down_revision = "ended_index"
branch_labels = None
depends_on = None


def upgrade() -> None:
    tables.hold()
    op.create_table(
        "reattacks",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("suite", sa.String(64), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("evaluation_id", sa.Uuid(), nullable=True),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('running','failed','done')", name=op.f("ck_reattacks_state")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_reattacks_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["jobs.id"], name=op.f("fk_reattacks_evaluation_id_jobs"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_reattacks")),
    )
    op.create_index(op.f("ix_reattacks_evaluation_id"), "reattacks", ["evaluation_id"])
    op.add_column("jobs", sa.Column("policy", sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("latest_verdict", postgresql.JSONB(), nullable=True))
    op.add_column("tenants", sa.Column("red_team", sa.String(), nullable=True))


def downgrade() -> None:
    """The release before has no word for what came with this one, and would deliver what is withheld."""
    tables.hold()
    withheld = op.get_bind().scalar(
        sa.text(
            "select count(*) from artifacts"
            " where info ? 'withheld' and expired_at is null and revoked_at is null"
        )
    )
    if withheld:
        raise RuntimeError(
            f"{withheld} artifacts are withheld, and the release before would deliver them: delete their jobs"
            " (DELETE /jobs/{id}), then go back"
        )
    op.execute("delete from webhook_deliveries where event = 'artifact.verdict_changed'")
    op.execute(
        "update webhooks set events = array_remove(events, 'artifact.verdict_changed')"
        " where 'artifact.verdict_changed' = any(events)"
    )
    op.drop_column("tenants", "red_team")
    op.drop_column("jobs", "latest_verdict")
    op.drop_column("jobs", "policy")
    op.drop_table("reattacks")
