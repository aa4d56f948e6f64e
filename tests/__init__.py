"""Tests mirror the packages; tests/README.md says where things are."""
