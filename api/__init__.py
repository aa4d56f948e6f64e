"""HTTP in, HTTP out: thin routes over the store. Imports no torch."""

from expunge import extras

extras.require("expunge.api", "service", "fastapi")
