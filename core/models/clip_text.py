"""A CLIP text encoder with its tokenizer: prompts to token states, words that were learned, and prefixes of
token embeddings.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expunge.core.errors import CoreError
from expunge.core.memory import in_batches
from expunge.core.models.text import Text
from expunge.core.models.word_embeddings import Word, WordTable

KEPT_STATES = 1024  # prompts whose text states stay in memory, 236 kB each with CLIP ViT-L
AT_ONCE = 64  # prompts encoded together


class ClipText:
    """Texts of at most `max_tokens` tokens, L, begin and end among them; states (B, L, D) in float32."""

    def __init__(self, tokenizer: Any, encoder: nn.Module, device: torch.device) -> None:
        self.tokenizer, self.device = tokenizer, device
        self.encoder: Any = encoder
        self.words: dict[str, Word] = {}
        self.columns = slice(None)  # of a learned word's numbers, the encoder's own
        self.kept: dict[str, Text] = {}

    # --- tokens ---------------------------------------------------------------------------------------------

    @property
    def max_tokens(self) -> int:
        return int(self.tokenizer.model_max_length)

    def token_ids(self, prompts: Sequence[str], *, cut: bool = True) -> list[list[int]]:
        """Each prompt's token ids with begin and end, not padded; cut to what the encoder reads."""
        if not prompts:
            return []  # the tokenizer refuses none
        how: dict[str, Any] = (
            {"truncation": True, "max_length": self.max_tokens} if cut else {"truncation": False}
        )
        ids: list[list[int]] = self.tokenizer(self.spelled(prompts), verbose=False, **how).input_ids
        return ids

    def too_long(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts that have more tokens than the encoder reads."""
        lengths = [len(ids) for ids in self.token_ids(prompts, cut=False)]
        return [prompt for prompt, n in zip(prompts, lengths, strict=True) if n > self.max_tokens]

    def vocabulary_ids(self) -> dict[str, int]:
        """Every token of the tokenizer by its text, to its id."""
        ids: dict[str, int] = self.tokenizer.get_vocab()
        return ids

    def special_ids(self) -> list[int]:
        """Ids of begin, end and padding, and of learned words."""
        added: dict[int, Any] = self.tokenizer.added_tokens_decoder
        return sorted({*self.tokenizer.all_special_ids, *added})

    def token_embeddings(self, text: str | None = None) -> Tensor:
        """The embeddings of a text's tokens without begin and end, (n, D), float32; of all tokens, (V, D)."""
        table = self.encoder.get_input_embeddings()
        if text is None:
            whole: Tensor = table.weight.detach().float()
            return whole
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(self.device)
        found: Tensor = table(ids)[0].detach().float()
        return found

    # --- states ---------------------------------------------------------------------------------------------

    def encode(self, prompts: Sequence[str], *, remember: bool = True) -> Text:
        """Texts without a graph; those asked for last are remembered, where `remember` is on."""
        kept = self.kept if remember else {}
        texts = {p: kept.pop(p) for p in dict.fromkeys(prompts) if p in kept}
        new = [p for p in dict.fromkeys(prompts) if p not in texts]
        with torch.no_grad():
            batches = in_batches(len(new), AT_ONCE, lambda start, end: self.encode_with_graph(new[start:end]))
        rows = (batch[i].each(Tensor.clone) for batch in batches for i in range(len(batch)))
        texts |= dict(zip(new, rows, strict=True))
        kept |= texts
        for forgotten in list(kept)[:-KEPT_STATES]:
            del kept[forgotten]
        return Text.stack([texts[p] for p in prompts])

    def encode_with_graph(
        self, prompts: Sequence[str], spoken: Tensor | None = None, before: Sequence[str] | None = None
    ) -> Text:
        """Texts with their graph. `spoken`, k token embeddings, (k, D) for all or (B, k, D), are said in each
        prompt: at its beginning or, where `before` is given, behind that beginning of the prompt.
        """
        ids = self.padded_ids(prompts)
        with self.saying(spoken, self.starts(prompts, before)):
            states: Tensor = self.encoder(ids)[0]
        return Text(states.float(), ids=ids if spoken is None else None)

    def padded_ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (B, L), cut or padded to what the encoder reads."""
        ids: Tensor = self.tokenizer(
            self.spelled(prompts),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return ids.to(self.device)

    def starts(self, prompts: Sequence[str], before: Sequence[str] | None) -> list[int]:
        """Where in each prompt something may be said: at its beginning, or behind the text that it begins
        with, which has a begin token and no end token.
        """
        return [len(ids) - 1 for ids in self.token_ids(before)] if before else [1] * len(prompts)

    @contextmanager
    def saying(self, spoken: Tensor | None, starts: Sequence[int]) -> Iterator[None]:
        """Inside, each text's embeddings (B, L, D) get those spoken, (k, D) or (B, k, D), from a place of its
        own on; its last k fall off.
        """
        if spoken is None:
            yield
            return

        def insert(_: Any, __: Any, tokens: Tensor) -> Tensor:
            said = spoken.to(tokens.dtype).expand(len(tokens), -1, -1)
            kept = tokens.shape[1] - said.shape[1]
            rows = [
                torch.cat([row[:start], new, row[start:kept]])
                for row, new, start in zip(tokens, said, starts, strict=True)
            ]
            return torch.stack(rows)

        hook = self.encoder.get_input_embeddings().register_forward_hook(insert)
        try:
            yield
        finally:
            hook.remove()

    # --- learned words --------------------------------------------------------------------------------------

    def spelled(self, prompts: Sequence[str]) -> list[str]:
        """The prompts as the tokenizer reads them: a learned word of k vectors as its k tokens, <w> <w>_1 …,
        as diffusers does.
        """
        out = list(prompts)
        for name, word in self.words.items():
            more = "".join(f" {name}_{i}" for i in range(1, len(word.vectors)))
            out = [p.replace(name, name + more) for p in out] if more else out
        return out

    def learn(self, name: str, vectors: Tensor, shows: str | None = None) -> None:
        """Give the word `name`, such as <my-dog>, the embeddings (k, D): prompts may use it from then on.

        A known word is changed. Raises: CoreError where the tokenizer has a token of that name.
        """
        self.know(name, Word(vectors.detach().float().to(self.device).clone(), shows))

    def know(self, name: str, word: Word) -> None:
        """`learn`, of a word whose embeddings are held as they are."""
        vectors, table = word.vectors, self.encoder.get_input_embeddings()
        if name in self.words:
            table.learned[list(self.words).index(name)] = vectors
        else:
            names = [name, *(f"{name}_{i}" for i in range(1, len(vectors)))]
            if self.tokenizer.add_tokens(names) != len(vectors):
                raise CoreError(
                    "word_taken",
                    f"the tokenizer has '{name}' already: give the concept another name",
                    field="concepts.name",
                )
            if not isinstance(table, WordTable):
                table = WordTable(table, self.columns)
                self.encoder.set_input_embeddings(table)
            table.learned.append(vectors)
        self.words[name] = word
        self.kept = {prompt: text for prompt, text in self.kept.items() if name not in prompt}
