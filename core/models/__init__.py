"""Adapters that make every architecture look the same to a method: encode, predict, draw, adapters on and off."""

from core.models.stable_diffusion import StableDiffusion, load_model, with_key
from core.models.vocabulary import Vocabulary

__all__ = ["StableDiffusion", "Vocabulary", "load_model", "with_key"]
