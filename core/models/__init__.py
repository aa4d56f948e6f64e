"""Adapters that make every architecture look the same to a method: encode, predict, draw, adapters on and off."""

from core.models.stable_diffusion import StableDiffusion, load_model
from core.models.vocabulary import Vocabulary

__all__ = ["StableDiffusion", "Vocabulary", "load_model"]
