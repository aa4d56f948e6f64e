"""Adapters that make every architecture look the same to a method: encode, predict, draw, adapters on and
off.
"""

from expunge.core.models.stable_diffusion import StableDiffusion, load_model, with_key
from expunge.core.models.vocabulary import Vocabulary

Denoiser = StableDiffusion

__all__ = ["Denoiser", "StableDiffusion", "Vocabulary", "load_model", "with_key"]
