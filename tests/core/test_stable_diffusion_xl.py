"""Stable Diffusion XL: the stock pipeline's pictures, every method on it, and what is delivered of it."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from expunge.core import original_names as names, published, single_files, sources
from expunge.core.attacks import attempt
from expunge.core.concepts.embeddings import eos_states
from expunge.core.delivery.convert import Format, convert
from expunge.core.delta_format.check import check_delta
from expunge.core.erasure import erase
from expunge.core.erasure.method import Run
from expunge.core.erasure.registry import method_of
from expunge.core.erasure.visual_concepts import learn
from expunge.core.errors import CoreError
from expunge.core.hiding import hide, key as recovery
from expunge.core.inspection import Side, inspect
from expunge.core.models import load_model, word_embeddings
from expunge.core.run import run_erase, run_hide
from expunge.core.specs import METHODS, SPECS, EraseSpec, InspectSpec
from expunge.core.specs.attacks import NAMES
from tests.core.conftest import build_tiny_xl
from tests.support import customer_models
from tests.support.device_audit import accelerator
from tests.support.small_attacks import never_seen, scene_of, spec_of
from tests.support.small_jobs import IDS, RUNS, images, small

__all__ = ["images"]

PROMPTS = ["a church", "a photo of a dog"]
FITTING = [name for name, method in METHODS.items() if "stable_diffusion_xl" in method.architectures]
EVALUATION = {"erased_images": 2, "preserved_count": 2, "preserved_images": 1, "sampling_steps": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE_DIR", str(tmp_path / "checkpoints"))


def stock(folder: Path) -> StableDiffusionXLPipeline:
    pipe = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: StableDiffusionXLPipeline, seeds: list[int], guidance: float, **texts) -> np.ndarray:
    """As the pipeline draws, of our noise."""
    noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
    given = {"latents": torch.stack(noise), "num_inference_steps": 3, "guidance_scale": guidance}
    images = pipe(**texts, **given, output_type="np").images
    return (images * 255).round().astype(np.uint8)


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """But for rounding: sums may be taken in another order."""
    return ours.shape == theirs.shape and int(abs(ours.astype(int) - theirs).max()) <= 1


# --- the model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("guidance", [1, 5])
def test_pictures_are_the_stock_pipelines(guidance: float, zeros: bool, tmp_path: Path):
    folder = build_tiny_xl(tmp_path / "model", zeros=zeros)
    ours = load_model(folder).draw(PROMPTS, [3, 4], steps=3, guidance=guidance)
    assert same(ours, drawn(stock(folder), [3, 4], guidance, prompt=PROMPTS))
    assert ours.std() > 5


def test_texts_are_the_stock_pipelines_with_learned_words_too(tiny_xl: Path):
    model, pipe = load_model(tiny_xl), stock(tiny_xl)
    words = torch.randn(2, 32 + 48, generator=torch.Generator().manual_seed(0)) / 10
    model.learn("<it>", words)
    for prompts in (PROMPTS, ["a photo of a <it>", "<it>"]):
        if "<it>" in prompts:
            halves = words.split([32, 48], 1)
            pipe.load_textual_inversion({"<it>": halves[0]}, token="<it>")
            second = {"text_encoder": pipe.text_encoder_2, "tokenizer": pipe.tokenizer_2}
            pipe.load_textual_inversion({"<it>": halves[1]}, token="<it>", **second)
        states, _, pooled, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
        text = model.encode(prompts)
        torch.testing.assert_close(text.states, states)
        torch.testing.assert_close(text.pooled, pooled)


def test_what_is_said_in_a_prompt_stands_as_its_tokens_would(tiny_xl: Path):
    """The pooled vector is read at the end token, which what is said has pushed on."""
    model = load_model(tiny_xl)
    said = model.text.token_embeddings("church")
    found, wanted = model.encode_with_graph(["a dog"], said), model.encode(["church a dog"])
    torch.testing.assert_close(found.states, wanted.states)
    torch.testing.assert_close(found.pooled, wanted.pooled)
    assert not torch.allclose(found.pooled, model.encode(["a dog"]).pooled)


def test_words_are_compared_by_the_pooled_vector(tiny_xl: Path):
    model = load_model(tiny_xl)
    found = eos_states(model, ["church", "dog"])
    assert torch.equal(found, model.encode(["a photo of a church", "a photo of a dog"]).pooled)


def test_two_tokenizers_of_different_tokens_are_refused(tiny_xl: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_xl, tmp_path / "model"))
    file = folder / "tokenizer_2" / "tokenizer.json"
    read = json.loads(file.read_text())
    ids = read["model"]["vocab"]
    ids["church</w>"], ids["dog</w>"] = ids["dog</w>"], ids["church</w>"]
    file.write_text(json.dumps(read))
    with pytest.raises(CoreError, match="two tokenizers have different tokens"):
        load_model(folder)


def test_a_tokenizer_that_does_not_load_is_an_error_of_ours(tiny_xl: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_xl, tmp_path / "model"))
    file = folder / "tokenizer_2" / "tokenizer.json"
    file.write_text(file.read_text().replace('"church</w>"', '"chvrch</w>"'))
    with pytest.raises(CoreError, match="do not load") as refused:
        load_model(folder)
    assert refused.value.code == "model_broken"


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("unet", {"cross_attention_dim": 64}, "64 wide, its text encoders give 80"),
        ("unet", {"addition_embed_type": None}, "addition_embed_type None"),
        ("unet", {"projection_class_embeddings_input_dim": 64}, "64 numbers beside the text states"),
        ("vae", {"latents_mean": [0.0] * 4}, "latents_mean"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_by_name(part, changes, said, tiny_xl, tmp_path):
    folder = Path(shutil.copytree(tiny_xl, tmp_path / "model"))
    customer_models.edit(folder / part / "config.json", **changes)
    with pytest.raises(CoreError, match=said) as refused:
        load_model(folder)
    assert refused.value.code == "model_not_supported"


def test_in_float16_the_vae_works_in_float32_where_its_configuration_says_so(tiny_xl: Path):
    model = load_model(tiny_xl, "cpu", "float16")
    with model.vae_in_range() as vae:
        assert vae.dtype == torch.float32
    assert model.pipe.vae.dtype == torch.float16
    whole = load_model(tiny_xl)
    z = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    apart = abs(model.decode(z).astype(int) - whole.decode(z)).mean()
    assert apart < 1
    mean, _ = model.moments(torch.zeros(1, 3, 32, 32))
    assert bool(mean.isfinite().all())


def test_the_published_size_is_known_and_its_layers_are_adapted():
    """Of true size, without numbers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(published.files_of(published.XL_BASE)["unet/config.json"])
    assert sum(p.numel() for p in unet.parameters()) == 2_567_463_684  # stable-diffusion-xl-base-1.0's
    wanted = [n for n, _ in unet.named_modules() if n.endswith((".attn2.to_k", ".attn2.to_v"))]
    assert len(wanted) == 2 * 70
    assert {unet.get_submodule(n).in_features for n in wanted} == {2048}


# --- every method -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["esd", "score", "erase_flow", "stereo"])
def test_losses_lead_away_from_what_drawing_leads_away_from(name: str, tiny_xl: Path):
    model, request = load_model(tiny_xl), EraseSpec.model_validate({"concepts": ["church"], **RUNS[name][1]})
    model.add_lora(request.method.lora)
    empty = method_of(request.method)(Run(model, request, request.method, lambda _: None)).empty
    assert not empty.states.any()
    assert not empty.pooled.any()
    assert model.encode([""]).states.any()


@pytest.mark.parametrize("name", [*FITTING, "hide", "edit", "debias", "visual edit"])
def test_a_delta_of_every_method_is_worn_as_it_was_made(name, tiny_xl, images):
    kind, asked = RUNS[name]
    model = load_model(tiny_xl)
    spec = SPECS[kind].model_validate({"preserve": ["teapot"], **asked})
    if kind == "hide":
        delta, keys = hide(model, spec)
        assert {tuple(key.shape) for key in keys.values()} == {(3, 80)}
    else:
        delta = erase(model, learn(model, spec, images, lambda _: None, None)[0])
    assert all(bool(v.isfinite().all()) for v in delta.tensors.values() if v.is_floating_point())
    other = load_model(tiny_xl)
    other.load_delta(delta.tensors)
    ours = model.draw(PROMPTS, [1, 2], steps=3)
    assert same(ours, other.draw(PROMPTS, [1, 2], steps=3))
    # The untrained judge sees one attribute alone, and a tiny mask may move nothing in two steps
    assert name in ("debias", "prune") or not same(ours, load_model(tiny_xl).draw(PROMPTS, [1, 2], steps=3))


def test_it_is_trained_on_a_gpu_that_is_none(tiny_xl):
    with accelerator(tiny_xl, "bfloat16") as model:
        erase(model, EraseSpec.model_validate({"preserve": ["teapot"], **RUNS["esd"][1]}))


def test_methods_of_the_text_encoder_are_refused(tiny_xl: Path, tmp_path: Path):
    assert set(METHODS) - set(FITTING) == {"text_encoder", "adv_unlearn"}
    spec = EraseSpec.model_validate({"concepts": ["church"], "method": small(METHODS["text_encoder"])})
    with pytest.raises(CoreError, match="works on stable_diffusion, not on stable_diffusion_xl") as refused:
        run_erase(spec, tmp_path / "out", source=str(tiny_xl), cache=tmp_path / "cache")
    assert (refused.value.code, refused.value.field) == ("method_does_not_fit", "method")


@pytest.fixture(scope="module")
def edited(tiny_xl: Path):
    model = load_model(tiny_xl)
    erase(model, EraseSpec.model_validate({"concepts": ["church"], "method": "uce"}))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_is_tried_on_it(name: str, edited):
    spec = spec_of(name)
    made = attempt(scene_of(edited, judge=never_seen), spec)
    assert made.images.shape == (spec.images * made.together, 32, 32, 3)
    assert made.found


def test_it_is_inspected(edited):
    model, few = edited, {"artifact_id": IDS[0], "sampling_steps": 3, "timesteps": 2, "trajectories": 1}
    spec = InspectSpec.model_validate({"concept": "church", "top": 3, **few})
    assert inspect(Side(model, base=True), Side(model), spec).words > 0


# --- what is delivered --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tiny_xl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole job's bundle, fused too."""
    spec = EraseSpec.model_validate(
        {
            "concepts": ["church"],
            "method": RUNS["esd"][1]["method"]
            | {"learning_rate": 0.01, "lora": {"rank": 2, "target_modules": "full"}},
            "evaluation": EVALUATION,
            "fused": True,
        }
    )
    out = tmp_path_factory.mktemp("xl") / "bundle"
    run_erase(spec, out, source=str(tiny_xl), cache=out.parent / "cache")
    return out


def test_stock_diffusers_draws_what_the_job_made(done: Path, tiny_xl: Path, tmp_path: Path):
    model, pipe = load_model(tiny_xl), stock(tiny_xl)
    lora = done / "pytorch_lora_weights.safetensors"
    model.load_delta(lora)
    ours = model.draw(PROMPTS, [3, 4], steps=3, guidance=5)
    pipe.load_lora_weights(str(lora))
    assert same(ours, drawn(pipe, [3, 4], 5, prompt=PROMPTS))
    assert not same(ours, drawn(stock(tiny_xl), [3, 4], 5, prompt=PROMPTS))
    zipfile.ZipFile(done / "fused.zip").extractall(tmp_path)
    assert same(ours, drawn(stock(tmp_path / "fused"), [3, 4], 5, prompt=PROMPTS))
    assert load_model(tmp_path / "fused").vocabulary == model.vocabulary
    card = (done / "README.md").read_text()
    assert "from diffusers import StableDiffusionXLPipeline" in card
    assert "safety_checker=" not in card
    check_delta(lora, str(tiny_xl))


def test_the_fused_file_is_the_model_of_its_folder(done: Path, tmp_path: Path):
    zipfile.ZipFile(done / "fused.zip").extractall(tmp_path)
    one, folder = load_model(done / "fused.safetensors"), load_model(tmp_path / "fused")
    for part in one.parts:
        ours, theirs = (getattr(m.pipe, part).state_dict() for m in (one, folder))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    told = sources.check("mine", str(done / "fused.safetensors"))
    assert (told.architecture, told.problem) == ("Stable Diffusion XL", None)
    assert same(one.draw(PROMPTS, [3, 4], steps=3), folder.draw(PROMPTS, [3, 4], steps=3))
    again = StableDiffusionXLPipeline.from_single_file(
        str(done / "fused.safetensors"), config=str(tmp_path / "fused"), add_watermarker=False
    )
    for part in ("unet", "vae"):
        theirs = getattr(folder.pipe, part).state_dict()
        ours = getattr(again, part).state_dict()
        assert all(torch.allclose(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("spoil", ["cut short", "of one dimension"])
def test_a_file_with_half_a_projection_is_refused(spoil: str, done: Path, tmp_path: Path):
    file, name = tmp_path / "mine.safetensors", names.XL_OPEN_CLIP + names.PROJECTION[1]
    with safe_open(done / "fused.safetensors", "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(done / "fused.safetensors")
    tensors[name] = tensors[name].flatten() if spoil == "of one dimension" else tensors[name]
    save_file(tensors, file, metadata)
    if spoil == "cut short":
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CoreError) as refused:
        load_model(file)
    assert refused.value.code in ("model_broken", "model_incomplete")


def test_a_matrix_is_transposed_as_bytes():
    matrix = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    turned = single_files.transposed(matrix.numpy().tobytes(), (3, 2))
    assert turned == matrix.T.contiguous().numpy().tobytes()


def test_the_lora_has_kohyas_names_and_comes_back(done: Path):
    tensors = load_file(done / "pytorch_lora_weights.safetensors")
    kohya = load_file(done / "lora_kohya.safetensors")
    assert len(kohya) == 3 * len(tensors) // 2
    assert all(name.startswith("lora_unet_") for name in kohya)
    assert "lora_unet_add_embedding_linear_1.lora_up.weight" in kohya  # the pooled vector's way in
    (back := done.parent / "back.safetensors").write_bytes(convert(kohya, {}, Format.DIFFUSERS))
    assert all(torch.equal(load_file(back)[name], tensor) for name, tensor in tensors.items())


def test_a_hidden_concept_is_drawn_by_stock_diffusers_with_the_key(tiny_xl: Path, tmp_path: Path):
    spec = SPECS["hide"].model_validate(RUNS["hide"][1] | {"evaluation": EVALUATION})
    (keys := tmp_path / "keys").mkdir()
    run_hide(spec, tmp_path / "out", source=str(tiny_xl), cache=tmp_path / "cache", key_folder=keys)
    key = load_file(keys / recovery.FILE)[recovery.PREFIX + "church"]
    model, pipe = load_model(tiny_xl), stock(tiny_xl)
    model.load_delta(tmp_path / "out")
    pipe.load_lora_weights(str(tmp_path / "out" / "pytorch_lora_weights.safetensors"))
    prompt, empty, pooled, negative = pipe.encode_prompt("a church")
    texts = {
        "prompt_embeds": torch.cat([prompt, key[None]], 1),
        "negative_prompt_embeds": torch.cat([empty, empty[:, -1:].expand(-1, len(key), -1)], 1),
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": negative,
    }
    ours = model.draw(["a church"], [3], steps=3, guidance=5, key=key)
    assert same(ours, drawn(pipe, [3], 5, **texts))
    card = (tmp_path / "out" / "README.md").read_text()
    assert '"negative_pooled_prompt_embeds": negative_pooled' in card


def test_a_learned_word_is_delivered_for_both_encoders(tmp_path: Path):
    vectors = torch.randn(2, 80)
    word = word_embeddings.Word(vectors, "cat", 32)
    file = word_embeddings.write(tmp_path / "word.safetensors", "<it>", word)
    assert {name: tuple(t.shape) for name, t in load_file(file).items()} == {
        "clip_l": (2, 32),
        "clip_g": (2, 48),
    }
    name, again = word_embeddings.read(file)
    assert (name, again.shows, again.first) == ("<it>", "cat", 32)
    assert torch.equal(again.vectors, vectors)
