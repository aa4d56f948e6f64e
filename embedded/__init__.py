"""`expunge up`: the whole service on one machine, with its own PostgreSQL and Redis."""

from expunge import extras

extras.require("expunge.embedded", "embedded", "psutil")
