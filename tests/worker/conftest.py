"""Fixtures of the worker's tests."""

from tests.support.cluster import finished, fleet

__all__ = ["finished", "fleet"]
