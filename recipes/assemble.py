"""Stage 6: put the parts together as a stock Stable Diffusion folder in fp16, with vocabulary, licences and
digests.
"""

import json
import shutil

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from recipes import data, text_encoder
from recipes.common import BUNDLED, STYLES, TEMPLATES, WORK, digests, log
from recipes.judges import OUT as JUDGES
from recipes.unet import scheduler


def main() -> None:
    tokenizer, text = text_encoder.load()
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(WORK / "vae"),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=UNet2DConditionModel.from_pretrained(WORK / "unet"),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = BUNDLED / "emoji"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(folder / part, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(folder)
    for part in ("unet", "vae", "text_encoder"):
        config = folder / part / "config.json"
        plain = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
        if part == "text_encoder":
            plain["dtype"] = "float32"  # transformers would load half precision beside the U-Net's single
        config.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")
    for name in ("vocab.json", "merges.txt"):  # older transformers read the tokenizer from these
        shutil.copy(WORK / name, folder / "tokenizer" / name)
    _, meta = data.load()
    subcategory = dict(zip(meta["concepts"], meta["subcategory"], strict=True))
    vocabulary = {
        "concepts": meta["concepts"],
        "styles": list(STYLES),
        "templates": list(TEMPLATES),
        "subcategory": subcategory,
    }
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary, indent=1) + "\n")
    for judge in ("concept", "style", "clip"):
        shutil.rmtree(BUNDLED / "judges" / judge, ignore_errors=True)
        shutil.copytree(JUDGES / judge, BUNDLED / "judges" / judge)
    digests(BUNDLED)
    log(
        "assemble", megabytes=round(sum(f.stat().st_size for f in BUNDLED.rglob("*") if f.is_file()) / 1e6, 1)
    )


if __name__ == "__main__":
    main()
