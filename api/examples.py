"""Example request bodies for the OpenAPI document."""

from fastapi.openapi.models import Example

ERASE: dict[str, Example] = {
    "plain": {
        "summary": "As little as possible",
        "value": {"model": "emoji", "concepts": ["church"], "method": "age"},
    },
    "method": {
        "summary": "A method with its own parameters",
        "value": {
            "model": "emoji",
            "concepts": ["church", "delivery truck"],
            "preserve": ["mosque", "castle"],
            "method": {
                "name": "age",
                "variant": "paper",
                "steps": 120,
                "candidates": 20,
                "lora": {"rank": 16},
            },
            "seed": 7,
            "labels": {"ticket": "DMCA-1042"},
        },
    },
    "stack": {
        "summary": "On top of an earlier erasure",
        "value": {
            "model": "emoji",
            "base_job_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11",
            "concepts": ["dog"],
        },
    },
    "concept": {
        "summary": "Synonyms, a target, thresholds for the verdict",
        "value": {
            "model": "emoji",
            "concepts": [{"name": "trumpet", "synonyms": ["bugle"], "target": "saxophone"}],
            "method": {"name": "uce", "expand_prompts": True},
            "evaluation": {"erased_images": 48, "thresholds": {"esr1": 0.98, "psr1_ratio": 0.95}},
        },
    },
    "edit": {
        "summary": "Edit: one concept becomes another",
        "value": {
            "model": "emoji",
            "concepts": [{"name": "church", "target": "castle"}],
            "preserve": ["mosque"],
            "method": "age",
        },
    },
    "debias": {
        "summary": "Debias: one concept is spread over attributes",
        "value": {
            "model": "emoji",
            "concepts": [
                {"name": "dog", "attributes": ["noto", "twemoji", "fluent"], "shares": [0.4, 0.3, 0.3]}
            ],
            "method": {"name": "age", "debias": {"rounds": 8, "images": 24}},
            "evaluation": {"thresholds": {"attribute_distance": 0.2}},
        },
    },
}

COMBINE: dict[str, Example] = {
    "out": {
        "summary": "Two erasures added up; others of the stack are undone",
        "value": {
            "model": "emoji",
            "jobs": ["0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11", "5d1f0c7b-3c52-4b6e-8f11-0a9a4c1f2e33"],
        },
    },
}

HIDE: dict[str, Example] = {
    "plain": {"summary": "As little as possible", "value": {"model": "emoji", "concepts": ["church"]}},
    "sealed": {
        "summary": "A longer key, encrypted to the client's own public key",
        "value": {
            "model": "emoji",
            "concepts": ["church"],
            "preserve": ["mosque"],
            "recovery": {"length": 16, "weight": 0.2},
            "seal_to": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
            "evaluation": {"thresholds": {"rsr1": 0.8}},
        },
    },
}

EVALUATE: dict[str, Example] = {
    "job": {
        "summary": "A finished job",
        "value": {"model": "emoji", "job_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"},
    },
    "upload": {
        "summary": "An uploaded delta",
        "value": {
            "model": "emoji",
            "artifact_id": "6a2f41a3-c654-4b7c-a1f4-0b9a3c1d8e55",
            "concepts": ["church"],
        },
    },
}

INSPECT: dict[str, Example] = {
    "job": {
        "summary": "What changed besides the concept that a job erased",
        "value": {"model": "emoji", "job_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11", "concept": "church"},
    },
    "two": {
        "summary": "Two models compared over common English nouns, to find what was changed",
        "value": {
            "model": "emoji",
            "job_id": "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11",
            "against_artifact_id": "6a2f41a3-c654-4b7c-a1f4-0b9a3c1d8e55",
            "concept_space": "english",
            "locality": 1.0,
        },
    },
}

IMPACT: dict[str, Example] = {
    "plain": {
        "summary": "What would erasing church hurt?",
        "value": {"model": "emoji", "concepts": ["church"]},
    },
    "method": {
        "summary": "By another method, with synonyms",
        "value": {
            "model": "emoji",
            "concepts": [{"name": "car", "synonyms": ["automobile"]}],
            "method": {"name": "esd", "steps": 60},
            "top": 5,
        },
    },
}
