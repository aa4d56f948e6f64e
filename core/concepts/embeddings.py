"""What a text encoder makes of many words: one vector each, in batches, kept in memory and (for large spaces)
on disk.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.core.memory import in_batches
from expunge.core.models import Denoiser, Text
from expunge.core.models.vocabulary import article
from expunge.core.progress import Callback, Clock, ignore

BATCH = 64
LARGE = 512  # words, from which on a space is worth a file


def phrase(model: Denoiser, word: str) -> str:
    """What a prompt says for a word: a photo of a concept, a picture in a style."""
    style = model.vocabulary.style(word)
    return article(f"a photo of a {word}") if style is None else model.vocabulary.styled("picture", style)


@torch.no_grad()
def encode_once(model: Denoiser, prompts: Sequence[str]) -> Text:
    """Texts of prompts that are not kept: many words would fill the memory."""
    return Text.cat(
        in_batches(len(prompts), BATCH, lambda start, end: model.encode_with_graph(prompts[start:end]))
    )


def name_states(model: Denoiser, name: str, length: int) -> Tensor:
    """Text states of the bare name after its begin token, repeated or cut to (length, D): c_e of KPOP's Eq.
    16, the centre of a recovery key's ball.
    """
    states = model.encode([name]).states[0, 1:]
    return states[torch.arange(length, device=states.device) % len(states)]


def encode(model: Denoiser, words: Sequence[str], callback: Callback) -> Tensor:
    """Vectors of "a photo of a {word}" ("a picture in {word} style") in the base model's text encoder, (n,
    D): the EOS state or, where the architecture has one, the pooled vector, which is trained to be compared.
    """
    clock, out = Clock(len(words)), []
    for i in range(0, len(words), BATCH):
        prompts = [phrase(model, w) for w in words[i : i + BATCH]]
        with model.frozen():
            text = encode_once(model, prompts)
        if text.pooled is None:
            lengths = torch.tensor([len(ids) for ids in model.text.token_ids(prompts)])
            out.append(text.states[torch.arange(len(prompts)), lengths - 1].float())
        else:
            out.append(text.pooled)
        done = min(i + BATCH, len(words))
        if len(words) > LARGE:
            callback(
                {
                    "phase": "encode",
                    "step": done,
                    "total": len(words),
                    "eta_s": clock.eta(done),
                    "message": "concept space",
                }
            )
    return torch.cat(out)


def eos_states(model: Denoiser, words: Sequence[str], callback: Callback = ignore) -> Tensor:
    """The words' vectors, (n, D); each word is encoded once, and a large space is read from the model's
    cache folder where it has one.
    """
    new = [w for w in dict.fromkeys(words) if w not in model.eos]
    learned, plain = [w for w in new if w in model.words], [w for w in new if w not in model.words]
    if learned:  # what such a word means is this job's alone
        model.eos |= dict(zip(learned, encode(model, learned, callback), strict=True))
    if plain:
        model.eos |= dict(zip(plain, stored(model, plain, callback), strict=True))
    return torch.stack([model.eos[w] for w in words])


def stored(model: Denoiser, words: list[str], callback: Callback) -> Tensor:
    if model.cache is None or len(words) < LARGE:
        return encode(model, words, callback)
    key = hashlib.sha256(
        "\n".join([model.digest, str(model.dtype), str(model.device).split(":")[0], *words]).encode()
    ).hexdigest()
    file: Path = model.cache / "concepts" / f"{key}.safetensors"
    with suppress(FileNotFoundError, SafetensorError, KeyError):  # not there, or not whole: made anew
        found: Tensor = load_file(file, device=str(model.device))["eos"]
        return found
    states = encode(model, words, callback)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.tmp")
    save_file({"eos": states.cpu()}, partial)
    partial.replace(file)
    return states
