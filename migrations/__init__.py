"""Alembic migrations of store/models.py."""
