"""One file for each architecture behind one seam, `Denoiser`: encode texts, predict, the schedule, draw, and
what a model wears.
"""

from expunge.core.models.denoiser import Denoiser
from expunge.core.models.loading import load_model
from expunge.core.models.text import Text
from expunge.core.models.vocabulary import Vocabulary

__all__ = ["Denoiser", "Text", "Vocabulary", "load_model"]
