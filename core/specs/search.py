"""Types of the fields by which AP and AGE set their adversarial search.

Types, not a base class: a field's place in its spec is part of the bytes that a job delivers.
"""

from typing import Annotated

from pydantic import Field

Candidates = Annotated[
    int,
    Field(
        ge=2,
        le=2000,
        description=(
            "Size of the search space: the nearest concepts of the space, by their end-of-text states"
            " (authors: by all 77 states, 100 of 1000)."
        ),
    ),
]
Hard = Annotated[
    bool,
    Field(description="Straight-through one-hot, Eq. 12; false: a soft mixture (AGE's authors for artists)."),
]
SearchLearningRate = Annotated[
    float,
    Field(gt=0, le=10, description="Learning rate of the search, Adam on the logits π (authors: 1e-2)."),
]
SearchEvery = Annotated[int, Field(ge=1, le=1000, description="Weight steps per search step (authors: 1).")]
