"""The page of all methods: `python -m expunge.core.specs.methods > docs/methods.md`."""

import inspect
import sys

from expunge.core.specs.method import MethodSpec
from expunge.core.specs.methods import METHODS

DELIVERS = {
    "lora": "LoRA on the network",
    "text_encoder_lora": "LoRA on the text encoder",
    "sparse_mask": "sparse mask and fused checkpoint",
}
HEAD = """\
# Methods

Written from the registry in `core/specs/methods` by `python -m expunge.core.specs.methods > docs/methods.md`.
Their parameters are in [openapi.json](../openapi.json), readable at `/docs` of a running service.

Also for: **debias**, concepts with attributes; **hide**, as the erasing term of a hide job; **prune**, as the
loss of `prune`; **adversary**, trained on against what brings the concept back (`method.adversary`). Only
LoRAs on the network can be stacked and combined.

Every trained method takes `diverse_prompts: true`: concepts, their targets and what is held are then also
asked for in scenes ("a church under a tree"), and an erased concept by a definition that does not name it,
where one is known (WordNet's, of a hundred everyday things) and the model's text encoder takes it for the
concept. Wordings of your own go into a concept's `synonyms`.

| `method` | what it does | source | delivers | also for | architectures |
|---|---|---|---|---|---|
"""


def row(name: str, spec: type[MethodSpec]) -> str:
    """A method's line of the table."""
    what, _, _ = inspect.cleandoc(spec.__doc__ or "").partition("\n\n")
    uses = {
        "debias": spec.debiases,
        "hide": spec.hides,
        "prune": spec.prunes,
        "adversary": "adversary" in spec.model_fields,
    }
    cells = [
        f"`{name}`",
        " ".join(what.split()),
        spec.cited(),
        DELIVERS[spec.delta],
        ", ".join(use for use, able in uses.items() if able),
        ", ".join(spec.architectures),
    ]
    return f"| {' | '.join(cells)} |\n"


def page() -> str:
    """The text of docs/methods.md."""
    return HEAD + "".join(row(name, spec) for name, spec in METHODS.items())


if __name__ == "__main__":
    sys.stdout.write(page())
