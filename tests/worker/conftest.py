"""Fixtures of the worker's tests."""

from fleets import finished, fleet

__all__ = ["finished", "fleet"]
