"""What a brought model is, and whether it loads, is known before torch is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from expunge.core import layouts, sources
from expunge.core.errors import CoreError
from expunge.core.models import load_model
from expunge.core.models.folders import BUNDLED, digest_of, earlier_digests
from tests.support import customer_models, hub_server

BUNDLED_DIGEST = "1fcea45a2d3424d2408fd49b2fa6da63e9e781cf679b50d92bbf61cf815a060d"
CHURCH = {"prompts": ["a church"], "seeds": [0], "steps": 2}


@pytest.mark.parametrize("what", customer_models.SPOILT)
def test_a_model_that_does_not_load_is_refused_by_name_with_the_remedy(what: str, tmp_path: Path):
    spoil, code, named = customer_models.SPOILT[what]
    folder = customer_models.copy(tmp_path / "mine")
    spoil(folder)
    with pytest.raises(CoreError) as error:
        load_model(folder)
    assert (error.value.code, error.value.field) == (code, "model")
    assert all(text in error.value.message for text in named), error.value.message
    assert str(tmp_path) not in error.value.message  # clients read it
    told = sources.check("mine", str(folder))
    assert (told.code, told.problem, told.seen) == (code, error.value.message, True)


def test_every_file_that_is_missing_is_named_at_once(tmp_path: Path):
    folder = customer_models.copy(tmp_path / "mine")
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/merges.txt",
        "scheduler",
    ):
        customer_models.lacks(name)(folder)
    with pytest.raises(CoreError) as error:
        layouts.look(folder)
    for name in (
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "tokenizer/merges.txt",
        "scheduler/",
    ):
        assert f"{name} is missing" in error.value.message
    assert "vocab.json" not in error.value.message


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("/nowhere/at/all", "no folder '/nowhere/at/all'"),
        ("emoji", "did you mean 'bundled:emoji'"),
        ("bundled:emojy", "there is 'bundled:emoji'"),
        ("https://huggingface.co/CompVis/stable-diffusion-v1-4", "organisation/name"),
        (__file__, "is a file"),
    ],
)
def test_a_source_where_there_is_no_model_is_told_what_would_be_one(source: str, named: str):
    with pytest.raises(CoreError) as error:
        load_model(source)
    assert error.value.field == "model"
    assert named in error.value.message


def test_a_folder_that_holds_the_model_deeper_down_names_where(tmp_path: Path):
    customer_models.copy(tmp_path / "outer" / "sd")
    with pytest.raises(CoreError, match="'sd' within it"):
        layouts.look(tmp_path / "outer")


def fp16(folder: Path) -> None:
    for name in (customer_models.UNET, customer_models.VAE, customer_models.TEXT):
        customer_models.rename(folder, f"{name}.safetensors", f"{name}.fp16.safetensors")


def mixed(folder: Path) -> None:
    customer_models.rename(
        folder, f"{customer_models.UNET}.safetensors", f"{customer_models.UNET}.non_ema.safetensors"
    )
    customer_models.rename(
        folder, f"{customer_models.TEXT}.safetensors", f"{customer_models.TEXT}.fp16.safetensors"
    )


def both(folder: Path) -> None:
    (folder / f"{customer_models.UNET}.fp16.safetensors").write_bytes(b"never read")


def old(folder: Path) -> None:
    """As the first repositories were: further parts that are not loaded, one of them not there, no class
    names.
    """
    changes = {
        "_class_name": None,
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    customer_models.edit(folder / "model_index.json", **changes)
    customer_models.edit(folder / "unet/config.json", _class_name=None)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/pytorch_model.bin").write_bytes(b"")


@pytest.mark.parametrize("change", [fp16, mixed, both, old, customer_models.shard])
def test_variants_shards_and_old_layouts_load_and_draw_the_same_picture(
    change: Callable[[Path], None], tmp_path: Path, tiny_sd: Path
):
    folder = customer_models.copy(tmp_path / "mine", of=tiny_sd)
    change(folder)
    model, plain = load_model(folder), load_model(tiny_sd)
    assert np.array_equal(model.draw(**CHURCH), plain.draw(**CHURCH))
    assert (model.digest == plain.digest) == (change is both)


def test_the_layout_says_which_weights_are_read(tmp_path: Path):
    folder = customer_models.copy(tmp_path / "mine")
    mixed(folder)
    found = layouts.look(folder)
    assert found.variants == {"unet": "non_ema", "vae": None, "text_encoder": "fp16"}
    assert "unet/diffusion_pytorch_model.non_ema.safetensors" in found.files
    assert found.architecture == "Stable Diffusion"


def test_the_checker_imports_no_torch():
    code = (
        "import sys; from core import sources; assert sources.check('emoji', 'bundled:emoji').problem is"
        " None; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the digest
# -----------------------------------------------------------------------------------------------------


def test_the_bundled_models_digest_is_as_it_was():
    assert digest_of(BUNDLED / "emoji") == BUNDLED_DIGEST


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_the_digest_covers_all_that_decides_what_is_drawn_and_nothing_else(name: str, tmp_path: Path):
    folder = customer_models.copy(tmp_path / "mine")
    before = digest_of(folder)
    for unread in ("notes.txt", "unet/diffusion_pytorch_model.non_ema.safetensors", "safety_checker.json"):
        (folder / unread).write_bytes(b"never read")
    assert digest_of(folder) == before
    config = next((folder / name).glob("*config.json"))
    customer_models.edit(config, changed=1)
    assert digest_of(folder) != before


def test_the_digest_is_of_the_weights_on_disk_whatever_they_are_loaded_as(tiny_sd: Path):
    assert load_model(tiny_sd, dtype="float32").digest == load_model(tiny_sd, dtype="bfloat16").digest


def test_a_key_made_by_an_earlier_release_still_fits(tmp_path: Path, tiny_sd: Path):
    folder = customer_models.copy(tmp_path / "mine", of=tiny_sd)
    (folder / "notes.txt").write_text("was part of the digest once")
    model = load_model(folder)
    of_folder, half, full = earlier_digests(folder)
    assert model.digest not in (of_folder, half, full)
    assert full == hub_digest_of_the_release_before(model.unet)
    assert half == hub_digest_of_the_release_before(load_model(folder, dtype="float16").unet)
    assert all(model.is_known_as(digest) for digest in (model.digest, of_folder, half, full))
    assert not model.is_known_as("0" * 64)


def hub_digest_of_the_release_before(unet: torch.nn.Module) -> str:
    import hashlib

    total = hashlib.sha256()
    for name, tensor in sorted(unet.state_dict().items()):
        total.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


# --- the hub's cache
# ------------------------------------------------------------------------------------------------


def cached(
    cache: Path, folder: Path, repository: str = "org/sd", revision: str = "main", commit: str = "c" * 40
) -> Path:
    """The model as the hub's own client would have left it in a cache."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.parent.mkdir(parents=True, exist_ok=True)
    customer_models.copy(snapshot, of=folder)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, and no way to the hub."""
    import huggingface_hub.constants
    import huggingface_hub.file_download

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_model_is_read_from_the_cache_by_its_revision(hub: Path, tmp_path: Path, tiny_sd: Path):
    cached(hub, tiny_sd)
    cached(hub, BUNDLED / "emoji", revision="v2", commit="d" * 40)
    model = load_model("org/sd")
    assert model.folder == hub / "models--org--sd/snapshots" / ("c" * 40)
    assert model.digest == load_model(tiny_sd).digest
    assert load_model("org/sd@v2").digest == load_model(f"org/sd@{'d' * 40}").digest == BUNDLED_DIGEST
    assert sources.check("sd", "org/sd@v2") == sources.Checked("sd", "hub", True, "Stable Diffusion")


def test_a_hub_models_digest_is_the_same_in_two_caches_whatever_else_was_fetched(
    hub: Path, tmp_path: Path, tiny_sd: Path
):
    snapshot = cached(hub, tiny_sd)
    first = load_model("org/sd").digest
    (snapshot / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"another variant")
    (snapshot / "safety_checker").mkdir()
    (snapshot / "safety_checker/config.json").write_text("{}")
    assert load_model("org/sd").digest == first


def test_a_hub_model_that_is_not_there_says_how_it_is_fetched(hub: Path):
    with pytest.raises(CoreError, match=r"hf download org/sd --revision v1") as error:
        load_model("org/sd@v1")
    assert (error.value.code, error.value.field) == ("model_not_fetched", "model")
    told = sources.check("sd", "org/sd@v1")
    assert (told.seen, told.code) == (False, "model_not_fetched")


def test_a_snapshot_of_another_architecture_is_refused_before_anything_is_fetched(hub: Path, tiny_sd: Path):
    customer_models.index(_class_name="StableDiffusion3Pipeline")(cached(hub, tiny_sd))
    with pytest.raises(CoreError, match="Stable Diffusion 3"):
        load_model("org/sd")


def test_a_model_pinned_by_digest_is_refused_when_it_is_another(hub: Path, tiny_sd: Path):
    cached(hub, tiny_sd)
    right = load_model(tiny_sd).digest
    assert load_model(f"org/sd@main#sha256:{right}").digest == right
    assert load_model(f"{tiny_sd}#sha256:{right}").digest == right
    with pytest.raises(CoreError, match=right) as error:
        load_model(f"org/sd#sha256:{'0' * 64}")
    assert error.value.code == "model_changed"


FETCH = """
import sys
from core import sources
from expunge.core.errors import CoreError
try:
    print(sources.digest_of(sources.fetch(sys.argv[1])))
except CoreError as error:
    print(error.code, error.message)
"""


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[str, str], str]:
    """What a process with an empty cache gets of the hub at an address."""

    def run(url: str, source: str) -> str:
        environment = {
            **os.environ,
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }
        return subprocess.run(
            [sys.executable, "-c", FETCH, source], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    return run


def test_only_what_is_read_is_fetched_and_once(
    fetch: Callable[[str, str], str], tmp_path: Path, tiny_sd: Path
):
    folder = customer_models.copy(tmp_path / "repository", of=tiny_sd)
    expected = digest_of(folder)
    for unread in (
        "README.md",
        f"{customer_models.UNET}.fp16.safetensors",
        f"{customer_models.UNET}.bin",
        "v1-5-pruned.ckpt",
    ):
        (folder / unread).write_bytes(b"unread")
    with hub_server.served(folder) as (url, sent):
        assert fetch(url, "org/sd@main") == expected
        assert sorted(sent) == sorted(layouts.look(folder).files)
        assert fetch(url, "org/sd@main") == expected
        assert len(sent) == len(set(sent))
        assert fetch(url, "org/sd@v9").startswith("unknown_model")
        assert fetch(url, "org/other").startswith("unknown_model")
    assert fetch(url, "org/third").startswith("model_not_fetched")


def test_no_weights_are_fetched_of_another_architecture(
    fetch: Callable[[str, str], str], tmp_path: Path, tiny_sd: Path
):
    folder = customer_models.copy(tmp_path / "repository", of=tiny_sd)
    customer_models.unet(in_channels=9)(folder)
    with hub_server.served(folder) as (url, sent):
        assert "inpainting" in fetch(url, "org/sd")
    assert not any(name.endswith(".safetensors") for name in sent)


def test_the_files_of_each_part_are_chosen_by_their_names():
    names = {
        "unet": [
            "config.json",
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.bin",
        ],
        "vae": [
            "config.json",
            "diffusion_pytorch_model.fp16.safetensors",
            "diffusion_pytorch_model.bf16.safetensors",
        ],
        "text_encoder": [
            "model.fp16-00001-of-00002.safetensors",
            "model.fp16-00002-of-00002.safetensors",
            "model.safetensors.index.fp16.json",
        ],
        "tokenizer": [],
        "scheduler": [],
    }
    wanted, variants = layouts.choose(names)
    assert wanted["unet"] == ["diffusion_pytorch_model.safetensors"]
    assert wanted["vae"] == ["diffusion_pytorch_model.fp16.safetensors"]
    assert wanted["text_encoder"] == ["model.safetensors.index.fp16.json"]
    assert variants == {"unet": None, "vae": "fp16", "text_encoder": "fp16"}


def test_what_a_source_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert sources.parse("CompVis/stable-diffusion-v1-4@refs/pr/3") == sources.Source(
        "hub", "CompVis/stable-diffusion-v1-4", "refs/pr/3"
    )
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLED / "emoji/scheduler", tmp_path / "models/mine")
    assert sources.parse("models/mine").kind == "local"
    assert sources.parse("models/other").kind == "hub"
    assert json.dumps(sources.parse(tmp_path).name) == json.dumps(str(tmp_path))


@pytest.mark.parametrize(
    ("part", "name"),
    [("unet", customer_models.UNET), ("vae", customer_models.VAE), ("text_encoder", customer_models.TEXT)],
)
def test_a_part_that_lacks_a_tensor_is_refused_and_never_random(part: str, name: str, tmp_path: Path):
    file = customer_models.copy(tmp_path / "mine") / f"{name}.safetensors"
    tensors = load_file(file)
    lost = sorted(tensors)[len(tensors) // 2]
    del tensors[lost]
    file.unlink()
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CoreError, match=f"{part}/ lacks 1 of its tensors, .*{lost.split('.')[-2]}") as error:
        load_model(tmp_path / "mine")
    assert error.value.code == "model_incomplete"


def test_a_tokenizer_that_does_not_say_how_long_a_text_may_be_has_the_text_encoders_length(tmp_path: Path):
    folder = customer_models.copy(tmp_path / "mine")
    config = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text())
    longest = config.pop("model_max_length")
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    model = load_model(folder)
    assert model.encode(["a church"]).states.shape[1] == longest
    assert model.text.too_long(["church " * longest])
