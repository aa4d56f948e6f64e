"""Every file that core reads from outside, under a corpus of hostile ones: a CoreError that says what is
wrong, never another, and nothing is run.
"""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings as hypothesis_settings, strategies as st
from nacl.public import PrivateKey
from safetensors.torch import load_file, save as save_tensors

from expunge.core.checkpoints import DirectoryCheckpoints
from expunge.core.delivery import stack
from expunge.core.delivery.verify import verify
from expunge.core.delta_format.check import check_delta, layer_shapes
from expunge.core.erasure.visual_concepts import read_image
from expunge.core.errors import CoreError
from expunge.core.hiding.key import FORMAT, load_key
from expunge.core.models import load_model, word_embeddings
from expunge.core.sealing import seal, unseal
from expunge.core.tensors import serialise
from tests.support.bad_files import Evil, broken_delta, config, foreign, lora, mask, packed, picture

LAYERS = {
    name: shape
    for name, shape in [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q", (32, 32)),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", (32, 32)),
    ]
}
DIGESTS = {"base_sha256": "0" * 64, "delta_sha256": "1" * 64}


def steady(examples: int) -> Callable[..., Any]:
    return hypothesis_settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that a pickle makes when somebody reads it."""
    return tmp_path_factory.mktemp("trace") / "run"


def refused(call: Callable[[], Any], *fields: str) -> None:
    with pytest.raises(CoreError) as found:
        call()
    assert found.value.field in fields
    assert found.value.message


@pytest.mark.parametrize(
    "ours",
    [
        packed(*lora(LAYERS)),
        packed(*mask(LAYERS)),
        packed(
            {"__metadata__": {"lora_adapter_metadata": json.dumps(config(LAYERS))}} | lora(LAYERS)[0],
            lora(LAYERS)[1],
        ),
    ],
)
def test_what_the_corpus_spoils_is_a_delta_before(tiny_sd: Path, tmp_path: Path, ours: bytes):
    assert {name: layer_shapes(tiny_sd)[name] for name in LAYERS} == LAYERS
    (tmp_path / "delta").write_bytes(ours)
    check_delta(tmp_path / "delta", str(tiny_sd))
    load_model(str(tiny_sd)).load_delta(load_file(tmp_path / "delta"))


def test_no_hostile_delta_passes_the_check_before_loading(
    tiny_sd: Path, tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
):
    shapes = layer_shapes(tiny_sd)
    # Read once, not 300 times
    monkeypatch.setattr("expunge.core.delta_format.check.layer_shapes", lambda _: shapes)
    seen = set()

    @steady(300)
    @given(broken_delta(LAYERS, str(trace)))
    def attack(content: bytes) -> None:
        seen.add(content)
        (tmp_path / "delta").write_bytes(content)
        refused(lambda: check_delta(tmp_path / "delta", str(tiny_sd)), "delta")

    attack()
    assert len(seen) >= 180
    assert not trace.exists()


def test_no_hostile_file_is_a_stack_a_word_or_a_key(tmp_path: Path, trace: Path):
    file, seen = tmp_path / "file.safetensors", set()

    @steady(200)
    @given(broken_delta(LAYERS, str(trace)))
    def attack(content: bytes) -> None:
        seen.add(content)
        file.write_bytes(content)
        refused(lambda: stack.read(file), "base_job_id")
        refused(lambda: word_embeddings.read(file), "words")
        refused(lambda: load_key(file), "key")

    attack()
    assert len(seen) >= 120
    assert not trace.exists()


@pytest.mark.parametrize(
    "head",
    [
        {
            "concept_erasure.concepts": text,
            "concept_erasure.method": '{"name":"age"}',
            "lora_adapter_metadata": "{}",
        }
        for text in ("{", "5", '["x"]', "[" * 99_999)
    ]
    + [
        {"concept_erasure.concepts": "[]", "concept_erasure.method": text, "lora_adapter_metadata": "{}"}
        for text in ("{", "[]", "{}", "5")
    ]
    + [
        {"concept_erasure.concepts": "[]", "concept_erasure.method": '{"name":"age"}', **more}
        for more in ({}, {"lora_adapter_metadata": "["}, {"lora_adapter_metadata": '{"unet.r":"x"}'})
    ]
    + [
        {
            "concept_erasure.concepts": "[]",
            "concept_erasure.method": '{"name":"age"}',
            "lora_adapter_metadata": "{}",
            "concept_erasure.stack": text,
        }
        for text in ("{", "5", "[5]", '[{"x":1}]')
    ],
)
def test_a_delta_whose_words_about_itself_are_broken_is_no_stack(tmp_path: Path, head: dict[str, str]):
    (tmp_path / "f").write_bytes(packed({"__metadata__": head} | lora(LAYERS)[0], lora(LAYERS)[1]))
    refused(lambda: stack.read(tmp_path / "f"), "base_job_id")


@pytest.mark.parametrize(
    ("prompts", "head"),
    [
        ({}, {"format": FORMAT, **DIGESTS}),
        ({"prompt.x": torch.ones(3, 4)}, {}),
        ({"prompt.x": torch.ones(3, 4)}, {"format": "expunge-recovery-key/2", **DIGESTS}),
        ({"prompt.x": torch.ones(3, 4)}, {"format": FORMAT, "base_sha256": "0" * 64}),
        ({"prompt.x": torch.ones(3, 4)}, {"format": FORMAT, **DIGESTS, "base_sha256": "../x"}),
        ({"x": torch.ones(3, 4)}, {"format": FORMAT, **DIGESTS}),
        ({"prompt.x": torch.ones(3)}, {"format": FORMAT, **DIGESTS}),
        ({"prompt.x": torch.ones(0, 4)}, {"format": FORMAT, **DIGESTS}),
        ({"prompt.x": torch.ones(3, 4, dtype=torch.int64)}, {"format": FORMAT, **DIGESTS}),
        ({"prompt.x": torch.full((3, 4), torch.nan)}, {"format": FORMAT, **DIGESTS}),
        ({"prompt.x": torch.full((3, 4), torch.inf)}, {"format": FORMAT, **DIGESTS}),
    ],
)
def test_what_is_no_recovery_key_is_refused(
    tmp_path: Path, prompts: dict[str, torch.Tensor], head: dict[str, str]
):
    (tmp_path / "key").write_bytes(serialise(prompts, head))
    refused(lambda: load_key(tmp_path / "key"), "key")


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"a": torch.ones(2, 3), "b": torch.ones(2, 3)},
        {"a": torch.ones(3)},
        {"a": torch.full((1, 3), torch.nan)},
        {"a": torch.ones(1, 3, dtype=torch.int32)},
    ],
)
def test_what_is_no_learned_word_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]):
    (tmp_path / "word").write_bytes(save_tensors(tensors))
    refused(lambda: word_embeddings.read(tmp_path / "word"), "words")


def test_no_hostile_box_opens(trace: Path):
    pair, other = PrivateKey.generate(), PrivateKey.generate()
    mine, public = base64.b64encode(bytes(pair)).decode(), base64.b64encode(bytes(pair.public_key)).decode()
    box = seal(b"the key", public)
    assert unseal(box, mine) == b"the key"
    foul = st.one_of(
        foreign(str(trace)),
        st.integers(0, len(box) - 1).map(lambda n: box[:n]),
        st.tuples(st.integers(0, len(box) - 1), st.integers(1, 255)).map(
            lambda at: box[: at[0]] + bytes([box[at[0]] ^ at[1]]) + box[at[0] + 1 :]
        ),
    )
    keys = st.one_of(
        st.just(base64.b64encode(bytes(other)).decode()),
        st.sampled_from(["", "x", "AAAA", "é", "\0", base64.b64encode(bytes(33)).decode()]),
        st.text(max_size=60),
    )

    @steady(150)
    @given(foul)
    def attack(content: bytes) -> None:
        with pytest.raises(ValueError, match="the box does not open"):
            unseal(content, mine)

    @steady(60)
    @given(keys)
    def steal(key: str) -> None:
        with pytest.raises(ValueError, match=r"private key|does not open"):
            unseal(box, key)

    attack()
    steal()


def test_no_hostile_picture_becomes_pixels(tmp_path: Path, trace: Path):
    good = picture("PNG")

    @steady(150)
    @given(
        st.one_of(
            foreign(str(trace)).filter(lambda raw: raw[:4] != good[:4]),
            st.integers(0, len(good) * 3 // 4).map(lambda n: good[:n]),
        )
    )
    def attack(content: bytes) -> None:
        (tmp_path / "image.png").write_bytes(content)
        refused(lambda: read_image(tmp_path / "image.png", "RGB"), "concepts.images")

    attack()
    assert not trace.exists()


JSONS = st.one_of(
    st.sampled_from(
        [
            b"",
            b"{",
            b"[]",
            b"5",
            b"null",
            b"[" * 99_999,
            b"\xff",
            b'{"files":[]}',
            b'{"files":{"a":5}}',
            b'{"files":{"../../etc/passwd":{}}}',
            b'{"files":{"a":{}},"format":"x"}',
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=9,
    ).map(lambda x: json.dumps(x).encode()),
    st.text(min_size=1, max_size=400).map(
        lambda name: json.dumps(
            {"format": "expunge-bundle/1", "files": {name: {"size": 1, "sha256": "x"}}}
        ).encode()
    ),
)


def test_no_hostile_bundle_is_verified(tmp_path: Path):
    @steady(200)
    @given(JSONS, st.one_of(st.none(), JSONS, JSONS.map(lambda raw: b'{"public_key":' + raw + b"}")))
    def attack(manifest: bytes, signature: bytes | None) -> None:
        (tmp_path / "manifest.json").write_bytes(manifest)
        (tmp_path / "manifest.sig").unlink(missing_ok=True)
        if signature is not None:
            (tmp_path / "manifest.sig").write_bytes(signature)
        result = verify(tmp_path)
        assert not result.ok
        assert result.problems

    attack()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, trace: Path):
    checkpoints = DirectoryCheckpoints(tmp_path)
    checkpoints.save(1, {"a": torch.ones(2)}, {"step": 1})

    @steady(100)
    @given(
        st.sampled_from(["manifest.json", "state.safetensors", "meta.json"]),
        st.one_of(JSONS, foreign(str(trace))),
    )
    def attack(name: str, content: bytes) -> None:
        checkpoints.save(2, {"a": torch.zeros(2)}, {"step": 2})
        if (tmp_path / "step-00000002" / name).read_bytes() != content:
            (tmp_path / "step-00000002" / name).write_bytes(content)
            found = checkpoints.load()
            assert found is not None
            assert found[1] == {"step": 1}

    attack()
    assert not trace.exists()


def test_nothing_in_core_reads_a_pickle_that_lies_beside_the_weights(
    tiny_sd: Path, tmp_path: Path, trace: Path
):
    """diffusers falls back to `.bin`, silently, where safetensors are missing or cannot be read."""
    import pickle

    folder = tmp_path / "delta"
    folder.mkdir()
    (folder / "pytorch_lora_weights.bin").write_bytes(pickle.dumps(Evil(str(trace))))
    model = load_model(str(tiny_sd))
    with pytest.raises(FileNotFoundError):
        model.load_delta(folder)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(pickle.dumps(Evil(str(trace))))
    with pytest.raises(CoreError, match="safetensors"):
        model.load_delta(folder)
    assert not trace.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_model_whose_safetensors_are_replaced_by_a_pickle_is_not_loaded(
    tiny_sd: Path, tmp_path: Path, trace: Path, part: str
):
    import pickle
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_sd, folder)
    (weights,) = (folder / part).glob("*.safetensors")
    weights.unlink()
    for name in (
        weights.with_suffix(".bin"),
        folder / part / "pytorch_model.bin",
        folder / part / "diffusion_pytorch_model.bin",
    ):
        name.write_bytes(pickle.dumps(Evil(str(trace))))
    with pytest.raises((CoreError, OSError)):
        load_model(str(folder))
    assert not trace.exists()
