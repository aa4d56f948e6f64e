"""Debiasing: a concept spread over its attributes, by shares."""
