"""Turns queued jobs into artifacts: the Celery app, the task with its lease, and the loops beside it."""

from expunge import extras

extras.require("expunge.worker", "worker", "celery")
