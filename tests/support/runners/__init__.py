"""Runners that stand in for core.run, named by EXPUNGE_RUNNER."""
