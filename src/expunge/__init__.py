"""Concept erasure for text-to-image diffusion models, as a job."""
