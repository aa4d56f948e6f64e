"""Two CLIP text encoders that read one prompt each by itself, as Stable Diffusion XL has them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import CoreError
from expunge.core.models.clip_text import ClipText
from expunge.core.models.text import Text
from expunge.core.models.word_embeddings import Word

Encoder = tuple[Any, nn.Module]  # its tokenizer, and it
STATES = -2  # the layer whose output the network reads: the last but one


class ClipPair(ClipText):
    """Texts of L tokens: the states of both encoders side by side, (B, L, D1 + D2), and the second's pooled
    vector (B, P).

    A token's embedding is its two embeddings side by side, (D1 + D2): so words are learned, and prefixes
    searched, in both at once. Raises: CoreError where the two do not read the same tokens.
    """

    def __init__(self, first: Encoder, second: Encoder, device: torch.device) -> None:
        super().__init__(*first, device)
        self.second = ClipText(*second, device)
        if self.vocabulary_ids() != self.second.vocabulary_ids():
            raise CoreError(
                "model_not_supported",
                "its two tokenizers have different tokens: take both from one model",
                field="model",
            )
        self.width = int(self.encoder.get_input_embeddings().weight.shape[1])
        self.columns, self.second.columns = slice(self.width), slice(self.width, None)

    @property
    def max_tokens(self) -> int:
        return min(super().max_tokens, self.second.max_tokens)

    def token_embeddings(self, text: str | None = None) -> Tensor:
        """The embeddings of a text's tokens without begin and end, (n, D1 + D2), float32; of all tokens."""
        return torch.cat([super().token_embeddings(text), self.second.token_embeddings(text)], -1)

    def encode_with_graph(
        self, prompts: Sequence[str], spoken: Tensor | None = None, before: Sequence[str] | None = None
    ) -> Text:
        """Texts with their graph; token embeddings (k, D1 + D2) or (B, k, D1 + D2) said in each, as for
        one encoder.
        """
        said = (None, None) if spoken is None else spoken.tensor_split([self.width], -1)
        starts = self.starts(prompts, before)
        ids = self.padded_ids(prompts)
        with self.saying(said[0], starts):
            first = self.encoder(ids, output_hidden_states=True)
        ids_2 = self.second.padded_ids(prompts)
        with self.second.saying(said[1], starts):
            second = self.second.encoder(ids_2, output_hidden_states=True)
        states = torch.cat([out.hidden_states[STATES].float() for out in (first, second)], -1)

        # The pooled vector is read at the end token, which what is said has pushed on.
        pushed = 0 if spoken is None else spoken.shape[-2]
        ends = (ids_2 == self.second.tokenizer.eos_token_id).int().argmax(1) + pushed
        rows = torch.arange(len(ids_2), device=self.device)
        last = second.last_hidden_state[rows, ends.clamp_max(ids_2.shape[1] - 1)]
        pooled = self.second.encoder.text_projection(last)
        return Text(states, pooled.float(), ids if spoken is None else None)

    def know(self, name: str, word: Word) -> None:
        word = replace(word, first=self.width)
        super().know(name, word)
        self.second.know(name, word)
