"""Damaged artifacts, and those that nobody has hashed for long"""

from expunge.migrations import indices

revision = "storage_indices"
down_revision = "storage"
branch_labels = None
depends_on = None

INDICES = {
    "ix_artifacts_corrupt": ("artifacts", ["corrupt_at"], "corrupt_at is not null"),
    "ix_artifacts_verified_at": ("artifacts", ["verified_at"], None),
}


def upgrade() -> None:
    for name, (table, columns, where) in INDICES.items():
        indices.create(name, table, columns, where)


def downgrade() -> None:
    for name, (table, *_) in reversed(INDICES.items()):
        indices.drop(name, table)
