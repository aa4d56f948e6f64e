"""Judges that a client uploads: packed, checked, and loaded exactly as their weights were trained."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from expunge.core.errors import CoreError
from expunge.core.evaluation.judges import VIT_B_32, judges_for, load_classifier, load_clip
from expunge.core.evaluation.judges.choose import find_judge
from expunge.core.evaluation.judges.classifier import RESNET50
from expunge.core.evaluation.judges.uploaded import load_uploaded
from expunge.core.judge_format import METADATA, BadJudge
from expunge.core.models import load_model
from expunge.core.pack_judge import pack
from expunge.core.specs import EvaluationSpec, JudgeSpec

PICTURE = np.random.default_rng(3).integers(0, 255, (2, 150, 210, 3), dtype=np.uint8)
SMALL = np.random.default_rng(4).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)
ID = "0b0d6f2e-6a43-4f0c-9d6b-2f6f5f6d9b11"
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CLEANING = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}


def rewritten(file: Path, to: Path, settings: object = None, **tensors: torch.Tensor | None) -> Path:
    """A judge's file with other settings or tensors; None takes a tensor out."""
    with safe_open(file, "pt") as f:
        held, said = {name: f.get_tensor(name) for name in f.keys()}, f.metadata()[METADATA]
    held = {name: t for name, t in (held | tensors).items() if t is not None}
    text = settings if isinstance(settings, str) else json.dumps(json.loads(said) | (settings or {}))
    save_file(held, to, metadata={METADATA: text})
    return to


@pytest.fixture(scope="module")
def classifier(tiny_judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("judge") / "concept.safetensors"
    pack(tiny_judged / "judges" / "concept", file)
    return file


def test_a_packed_classifier_says_what_its_folder_says(tiny_judged: Path, classifier: Path):
    there, here = load_classifier(tiny_judged / "judges" / "concept"), load_uploaded(classifier)
    assert here.classes == there.classes
    assert torch.equal(here.logits(SMALL), there.logits(SMALL))
    assert here.digest == there.digest


def test_a_packed_clip_says_what_its_folder_says(tiny_judged: Path, tmp_path: Path):
    pack(tiny_judged / "judges" / "clip", tmp_path / "clip.safetensors")
    there, here = load_clip(tiny_judged / "judges" / "clip"), load_uploaded(tmp_path / "clip.safetensors")
    texts = ["a church", "a photo of a dog"]
    assert torch.equal(here.similarities(PICTURE, texts), there.similarities(PICTURE, texts))
    assert here.digest == there.digest


# Known values


def test_timm_s_own_folder_is_read_as_torchvision_prepares_and_runs_it(tmp_path: Path):
    torch.manual_seed(1)
    reference = torchvision.models.resnet18(num_classes=5).eval()
    save_file(reference.state_dict(), tmp_path / "model.safetensors")
    prepared = {"input_size": [3, 176, 176], "interpolation": "bilinear", "crop_pct": 0.875, "num_classes": 5}
    prepared |= {"test_input_size": [3, 224, 224], "test_crop_pct": 0.965}
    prepared |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "pool_size": [7, 7]}
    names = ["n1", "n2", "n3", "n4", "n5"]
    config = {"architecture": "resnet18", "num_classes": 5, "label_names": names, "pretrained_cfg": prepared}
    config["label_descriptions"] = {"n2": "tench, Tinca tinca"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pack(tmp_path, tmp_path / "judge.safetensors")
    judge = load_uploaded(tmp_path / "judge.safetensors")
    assert judge.classes == ["n1", "tench", "n3", "n4", "n5"]
    known = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    with torch.inference_mode():
        expected = reference(torch.stack([known(Image.fromarray(p)) for p in PICTURE]))
    torch.testing.assert_close(judge.logits(PICTURE), expected)


def test_the_papers_classifier_gets_pictures_as_torchvision_prepares_them(monkeypatch: pytest.MonkeyPatch):
    network = timm.create_model("resnet50")
    network.pretrained_cfg = timm.get_pretrained_cfg(RESNET50).to_dict()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: network)
    ours = load_classifier(RESNET50).transform
    known = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    for size in ((64, 64), (512, 512), (300, 451)):
        picture = Image.fromarray(np.random.default_rng(5).integers(0, 255, (*size, 3), dtype=np.uint8))
        torch.testing.assert_close(ours(picture), known(picture))


def as_transformers(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An open_clip ViT's weights under the names of transformers' CLIPModel."""
    parts = (
        ("visual.", "vision_model.", "visual.transformer.resblocks."),
        ("", "text_model.", "transformer.resblocks."),
    )
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names["attn.out_proj"] = "self_attn.out_proj"
    plain = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "token_embedding": "text_model.embeddings.token_embedding",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final": "text_model.final_layer_norm",
        "logit_scale": "logit_scale",
    }
    out = {
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
    }
    for name, tensor in state.items():
        stem = name.removesuffix(".weight").removesuffix(".bias")
        if name in plain or stem in plain:
            out[plain[name] if name in plain else plain[stem] + name[len(stem) :]] = tensor
        for _, model, blocks in parts:
            if not name.startswith(blocks):
                continue
            layer, _, rest = name[len(blocks) :].partition(".")
            place = f"{model}encoder.layers.{layer}."
            if "in_proj" in rest:
                for part, value in zip("qkv", tensor.chunk(3), strict=True):
                    out[f"{place}self_attn.{part}_proj.{rest.rpartition('_')[2]}"] = value
            else:
                stem, _, kind = rest.rpartition(".")
                out[f"{place}{names[stem]}.{kind}"] = tensor
    return out


@pytest.mark.parametrize(("quick", "activation"), [(False, "gelu"), (True, "quick_gelu")])
def test_a_clip_model_is_run_with_the_activation_of_its_settings(
    tmp_path: Path, quick: bool, activation: str
):
    torch.manual_seed(2)
    model = open_clip.CLIP(**VIT)
    for weight in model.parameters():  # large enough for the activations to differ
        weight.data += 0.3 * torch.randn_like(weight) * (weight.ndim > 1)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    settings = {"model_cfg": VIT | {"quick_gelu": quick}, "preprocess_cfg": CLEANING}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    pack(tmp_path, tmp_path / "judge.safetensors")
    judge = load_uploaded(tmp_path / "judge.safetensors")

    vision = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8, "hidden_act": activation, "projection_dim": 16}
    text = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 49408, "max_position_embeddings": 16, "hidden_act": activation}
    text |= {"eos_token_id": 49407, "projection_dim": 16}
    reference = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    missing, extra = reference.load_state_dict(as_transformers(model.state_dict()), strict=False)
    assert (extra, [name for name in missing if not name.endswith("position_ids")]) == ([], [])
    texts = ["a church", "a photo of a dog"]
    with torch.inference_mode():
        pixels = torch.stack([judge.transform(Image.fromarray(p)) for p in PICTURE])
        known = reference(input_ids=judge.tokenize(texts), pixel_values=pixels)
        expected = known.image_embeds @ known.text_embeds.T
    torch.testing.assert_close(judge.similarities(PICTURE, texts), expected, atol=1e-5, rtol=1e-4)


def test_the_papers_clip_is_made_with_the_activation_that_its_weights_were_trained_with(
    monkeypatch: pytest.MonkeyPatch,
):
    asked = {}

    def create(name: str, **options: object):
        asked.update(options, name=name)
        raise RuntimeError("no hub")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(CoreError, match="no hub"):
        load_clip(VIT_B_32)
    assert asked["force_quick_gelu"] is True
    with pytest.raises(CoreError, match="no hub"):
        load_clip(("ViT-B-32", "laion2b_s34b_b79k"))
    assert asked["force_quick_gelu"] is False


# What is refused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{", "that is not JSON"),
        ("[]", "not those of a timm classifier"),
        ({"architecture": "hf-hub:someone/model"}, "architecture: String should match pattern"),
        ({"architecture": "no_such_network"}, "that this timm does not know"),
        ({"architecture": "vit_giant_patch14_224"}, "of shape"),
        ({"checkpoint_path": "/etc/passwd"}, "checkpoint_path: Extra inputs"),
        ({"classes": ["one", "two"]}, "of shape"),
        ({"std": [0.0, 1.0, 1.0]}, "std.0"),
        ({"input_size": 100_000}, "input_size"),
        ({"model_cfg": {}}, "not those of an open_clip model"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_refused(
    classifier: Path, tmp_path: Path, settings: object, said: str
):
    with pytest.raises(BadJudge, match=said):
        load_uploaded(rewritten(classifier, tmp_path / "judge.safetensors", settings))


def test_tensors_that_do_not_fit_the_network_are_refused(classifier: Path, tmp_path: Path):
    file = tmp_path / "judge.safetensors"
    with safe_open(classifier, "pt") as f:
        weight = f.get_tensor("fc.weight")
    with pytest.raises(BadJudge, match=r"'fc.weight' of shape none, where its settings need \(12,"):
        load_uploaded(rewritten(classifier, file, **{"fc.weight": None}))
    with pytest.raises(BadJudge, match="'more' of shape"):
        load_uploaded(rewritten(classifier, file, more=torch.zeros(2)))
    with pytest.raises(BadJudge, match=r"NaN or infinity in 'fc\.weight'"):
        load_uploaded(rewritten(classifier, file, **{"fc.weight": weight * torch.inf}))
    file.write_bytes(b"\x80\x04pickle" * 9)
    with pytest.raises(BadJudge, match="not a safetensors file"):
        load_uploaded(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_args": {"act_layer": "gelu"}}, "model_args"),
        ({"label_names": None}, "label_names"),
        ({"pretrained_cfg": {"input_size": [1, 28, 28]}}, "square ones in RGB"),
    ],
)
def test_a_folder_that_is_no_judge_is_not_packed(tmp_path: Path, change: dict, said: str):
    prepared = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "resnet18", "label_names": ["a", "b"], "pretrained_cfg": prepared} | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadJudge, match=r"none of model\.safetensors"):
        pack(tmp_path, tmp_path / "judge.safetensors")
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(BadJudge, match=said):
        pack(tmp_path, tmp_path / "judge.safetensors")


# Who judges then


def test_an_uploaded_classifier_judges_its_classes_and_the_models_own_judges_the_rest(
    tiny_judged: Path, classifier: Path, tmp_path: Path
):
    names = [f"thing {i}" for i in range(10)] + ["church", "Zeppelin"]
    file = rewritten(classifier, tmp_path / "judge.safetensors", {"classes": names})
    asked, model = JudgeSpec(artifact_id=ID), load_model(tiny_judged)
    judges = judges_for(tiny_judged, asked=asked, file=file)
    zeppelin, church = (find_judge([name], judges, model) for name in ("zeppelin", "church"))
    assert (zeppelin.name, zeppelin.index) == ("uploaded test_resnet", 11)
    assert (church.name, church.index) == ("uploaded test_resnet", 10)
    assert find_judge(["dog"], judges, model).name == "concept"
    assert "concept (uploaded test_resnet)" in judges.digests()
    with pytest.raises(CoreError, match="is not here: give its file"):
        judges_for(tiny_judged, asked=asked)


def test_texts_alone_make_clip_the_judge_of_what_has_no_class(tiny_judged: Path):
    model = load_model(tiny_judged)
    spec = EvaluationSpec.model_validate({"judge": {"texts": ["airship", "dog", "kite"]}})
    judge = find_judge(["zeppelin"], judges_for(tiny_judged, asked=spec.judge), model)
    assert (judge.kind, judge.among, len(judge.texts)) == ("zero_shot", 4, 4)
    with pytest.raises(ValueError, match="give artifact_id"):
        EvaluationSpec.model_validate({"judge": {}})
