"""A classifier's way to say "none of these": a small head on what the classifier computes anyway.

The classes' logits stay as they are. The head reads mean and deviation of each stage's channels, and the
logits; its output is calibrated by a temperature, and compared with a threshold that is set by the share of
good pictures that it may reject (recipes/none_of_these.py).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FILE = "none_of_these.safetensors"


class NoneOfThese(nn.Module):
    """Probability that a picture shows none of a classifier's classes.

    threshold: from this probability on, the judge says none. false_rejections: the share of good pictures
    that the threshold was set to reject.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        inputs: int,
        hidden: int,
        temperature: float = 1.0,
        threshold: float = 0.5,
        false_rejections: float | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.temperature, self.threshold, self.false_rejections = temperature, threshold, false_rejections

    def forward(self, read: Tensor) -> Tensor:
        """What `look` returned, (N, inputs), to the probability of none, (N,)."""
        return torch.sigmoid(self.score(read) / self.temperature)

    def score(self, read: Tensor) -> Tensor:
        """The uncalibrated logit of none, (N,)."""
        scaled: Tensor = self.layers((read - self.centre) / self.scale)
        return scaled[:, 0]


def look(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """A timm classifier's logits (N, classes), and what the head reads, (N, inputs), of one pass."""
    last, stages = model.forward_intermediates(pixels)
    logits = model.forward_head(last)
    return logits, torch.cat([*summaries(stages), *ranks(logits)], 1)


def summaries(stages: Sequence[Tensor]) -> list[Tensor]:
    """Mean and deviation of each channel of each stage (N, C, h, w): (N, C) each."""
    parts = []
    for stage in stages:
        flat = stage.float().flatten(2)
        parts += [flat.mean(2), flat.std(2, correction=0)]
    return parts


def ranks(logits: Tensor) -> list[Tensor]:
    """How sure the classes are: the log-probabilities, the five largest of them in order, and the logits'
    log-sum-exp.
    """
    log_p = logits.float().log_softmax(1)
    return [log_p, log_p.topk(min(5, log_p.shape[1])).values, logits.float().logsumexp(1, keepdim=True)]


def load(folder: Path) -> NoneOfThese | None:
    """The head of a judge's folder; None where it has none."""
    if not (folder / FILE).is_file():
        return None
    settings = json.loads((folder / "config.json").read_text())["none_of_these"]
    tensors = {name: t.float() for name, t in load_file(folder / FILE).items()}
    inputs, hidden = len(tensors["centre"]), len(tensors["layers.0.bias"])
    head = NoneOfThese(
        inputs, hidden, settings["temperature"], settings["threshold"], settings["false_rejections"]
    )
    head.load_state_dict(tensors)
    return head.eval()
