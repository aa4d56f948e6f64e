"""Which architectures load, by what a model's JSON files say: pipelines, parts that fit each other,
schedules; and what the others are called when they are refused. Imports no torch.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from expunge.core.errors import CoreError

INDEX = "model_index.json"
Part = Literal["unet", "vae", "text_encoder", "text_encoder_2"]
CLASSES: dict[Part, str] = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
LOADS = "Stable Diffusion 1.x, 2.x and XL text-to-image models load"
SD, XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
TAKEN = {SD: SD, "StableDiffusionImg2ImgPipeline": SD, XL: XL, "StableDiffusionXLImg2ImgPipeline": XL}
"""Pipelines whose parts load, and the one that draws from a text with them."""
ARCHITECTURES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}  # by the width of the text states
ARCHITECTURE_XL = "Stable Diffusion XL"
# Beginnings of pipelines' class names
OTHERS = (
    ("StableDiffusionXLInpaint", "an inpainting model"),
    ("StableDiffusionXLInstructPix2Pix", "an image-editing model"),
    ("StableDiffusionXL", "a model on Stable Diffusion XL's parts with more besides"),
    ("StableDiffusion3", "a Stable Diffusion 3 model"),
    ("Flux", "a FLUX model"),
    ("StableDiffusionInpaint", "an inpainting model"),
    ("StableDiffusionUpscale", "an upscaler"),
    ("StableDiffusionLatentUpscale", "an upscaler"),
    ("StableDiffusionDepth2Img", "a depth-to-image model"),
    ("StableDiffusionImageVariation", "an image-variation model"),
    ("StableUnCLIP", "an image-variation model"),
    ("StableDiffusionInstructPix2Pix", "an image-editing model"),
    ("LatentConsistency", "a latent consistency model"),
    ("PixArt", "a PixArt model"),
    ("Kandinsky", "a Kandinsky model"),
    ("Kolors", "a Kolors model"),
    ("StableCascade", "a Stable Cascade model"),
    ("IF", "a DeepFloyd IF model"),
)
CHANNELS = {
    9: "an inpainting model",
    7: "an upscaler",
    5: "a depth-to-image model",
    8: "an image-editing model",
}
"""What a U-Net is that takes more channels than the latents have."""
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SCHEDULERS = (
    "DDIM",
    "DDIMParallel",
    "DDPM",
    "DDPMParallel",
    "PNDM",
    "LMSDiscrete",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
    "HeunDiscrete",
    "KDPM2Discrete",
    "KDPM2AncestralDiscrete",
    "DPMSolverMultistep",
    "DPMSolverSinglestep",
    "DPMSolverSDE",
    "DEISMultistep",
    "UniPCMultistep",
    "SASolver",
    "LCM",
    "TCD",
)
"""Those of diffusers over the same noise by betas that draw pictures from it, without the 'Scheduler' at
their names' ends.
"""
ASKS_MORE = (
    *("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type"),
    "time_cond_proj_dim",  # the guidance that a consistency model was distilled with
)


def refuse(code: str, message: str) -> CoreError:
    return CoreError(code, message, field="model")


def family_of(architecture: str) -> str:
    """The file of core/models that drives an architecture, which methods name as theirs."""
    return "stable_diffusion_xl" if architecture == ARCHITECTURE_XL else "stable_diffusion"


def check_pipeline(index: Mapping[str, Any]) -> str:
    """The pipeline that draws from a text with these parts; another one is refused by its name. Where the
    index does not say its class, the parts are asked.
    """
    has_second = any(index.get("text_encoder_2") or [])
    name = index.get("_class_name", XL if has_second else SD)
    if not isinstance(name, str) or name not in TAKEN:
        name = str(name[-1] if isinstance(name, list) and name else name)[:100]
        what = next(
            (what for begin, what in OTHERS if name.startswith(begin)), "a model of another architecture"
        )
        raise refuse("model_not_supported", f"it is {what} ({name}): {LOADS}")
    pipeline = TAKEN[name]
    if pipeline == XL and not any(index.get("text_encoder") or []):
        raise refuse(
            "model_not_supported",
            "it is the refiner of Stable Diffusion XL, which draws on what the base model has begun: take the"
            " base model",
        )
    others = ("transformer", "text_encoder_3", "image_encoder", "prior")
    more = next((part for part in others if any(index.get(part) or [])), None)
    if more is None and pipeline == SD and has_second:
        more = "text_encoder_2"
    if more is not None:
        raise refuse(
            "model_not_supported", f"it has a part '{more}', which is of another architecture: {LOADS}"
        )
    return pipeline


OTHER_KIND = "a model of another kind"


def check_parts(index: Mapping[str, Any], configs: Mapping[Part, Mapping[str, Any]]) -> str:
    """The architecture; CoreError where the parts are those of another, or do not fit each other."""
    for part in configs:
        wanted, listed = CLASSES[part], index.get(part)
        name = str(listed[-1]) if isinstance(listed, list) and listed else str(listed)
        if name != wanted:
            remedy = f"{LOADS}, whose {part} is {wanted}"
            raise refuse("model_not_supported", f"{INDEX} has {name} for {part}: {remedy}")
    is_xl = "text_encoder_2" in configs
    check_unet(configs["unet"], configs["vae"], is_xl)
    if is_xl:
        return check_parts_xl(configs)

    # A text encoder whose states the U-Net reads.
    width = configs["unet"].get("cross_attention_dim", 1280)
    check_width(width, configs["text_encoder"].get("hidden_size", 512), "text encoder gives")
    return ARCHITECTURES.get(width, "Stable Diffusion") if isinstance(width, int) else "Stable Diffusion"


def check_unet(unet: Mapping[str, Any], vae: Mapping[str, Any], is_xl: bool) -> None:
    """Refuse a U-Net that takes more than the VAE's latents and a text, of which XL's has a pooled vector and
    sizes besides.
    """
    name = unet.get("_class_name", CLASSES["unet"])
    if name != CLASSES["unet"]:
        raise refuse("model_not_supported", f"its U-Net is a {str(name)[:100]}: {LOADS}")

    # It takes what the VAE gives …
    taken, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if taken != latent:
        what = CHANNELS.get(taken, OTHER_KIND) if isinstance(taken, int) else OTHER_KIND
        raise refuse(
            "model_not_supported",
            f"it is {what}: its U-Net takes {taken} channels, where latents have {latent}: {LOADS}",
        )

    # … and a text, …
    more = {key: unet[key] for key in ASKS_MORE if unet.get(key) is not None}
    asked = more.pop("addition_embed_type", None)
    if asked == "text_time" and not is_xl:
        raise refuse(
            "model_not_supported",
            "its U-Net is Stable Diffusion XL's (addition_embed_type text_time), the other parts are not: the"
            " parts are of different models, take all from one",
        )
    if asked is not None and asked != "text_time":
        more["addition_embed_type"] = asked
    if more:
        named = next(f"{key} {value}" for key, value in more.items())
        raise refuse(
            "model_not_supported",
            f"it is {OTHER_KIND}: its U-Net asks for more than a text ({named[:100]}): {LOADS}",
        )

    # … and gives what the VAE takes, square.
    if unet.get("out_channels", 4) != latent:
        raise refuse(
            "model_not_supported",
            f"its U-Net gives {unet.get('out_channels')} channels, where latents have {latent}: {LOADS}",
        )
    size = unet.get("sample_size")
    if not isinstance(size, int) and not (isinstance(size, list) and len(size) == 2 and size[0] == size[1]):
        raise refuse(
            "model_not_supported",
            f"its U-Net's sample_size is {json.dumps(size)}: latents must be square, write their side into"
            " unet/config.json",
        )


def check_parts_xl(configs: Mapping[Part, Mapping[str, Any]]) -> str:
    """The two text encoders must give what the U-Net reads: states side by side, and the second's pooled
    vector with six numbers for sizes and crop.
    """
    unet, vae = configs["unet"], configs["vae"]
    first, second = configs["text_encoder"], configs["text_encoder_2"]
    if unet.get("addition_embed_type") != "text_time":
        raise refuse(
            "model_not_supported",
            f"its U-Net has addition_embed_type {str(unet.get('addition_embed_type'))[:100]}, where Stable"
            " Diffusion XL's has text_time: the parts are of different models, take all from one",
        )
    states = first.get("hidden_size", 512) + second.get("hidden_size", 512)
    check_width(unet.get("cross_attention_dim", 1280), states, "text encoders give")
    said = unet.get("projection_class_embeddings_input_dim")
    pooled = second.get("projection_dim", 512) + 6 * (unet.get("addition_time_embed_dim") or 0)
    if said != pooled:
        raise refuse(
            "model_not_supported",
            f"its U-Net reads {said} numbers beside the text states (a refiner's fewer), the other parts give"
            f" {pooled}: take the text-to-image model, all parts from one",
        )
    if vae.get("latents_mean") is not None or vae.get("latents_std") is not None:
        raise refuse(
            "model_not_supported",
            "its VAE has latents_mean and latents_std, another scale of latents than Stable Diffusion XL's:"
            f" {LOADS}",
        )
    return ARCHITECTURE_XL


def check_width(width: object, states: object, given_by: str) -> None:
    """Refuse text states of another width than the U-Net reads."""
    if isinstance(width, int) and width != states:
        raise refuse(
            "model_not_supported",
            f"its U-Net reads text states {width} wide, its {given_by} {states}: the parts are of different"
            " models, take both from one",
        )


def check_scheduler(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a schedule that is not of noise by betas, and a network that predicts something else."""

    # A sampler of noise by betas …
    betas, predicted = config.get("beta_schedule", BETAS[0]), config.get("prediction_type", PREDICTIONS[0])
    if name.removesuffix("Scheduler") not in SCHEDULERS or not name.endswith("Scheduler"):
        raise refuse(
            "model_not_supported",
            f"its scheduler is {name[:100]}: erasing needs one of noise by betas, such as DDIMScheduler or"
            " PNDMScheduler",
        )
    if config.get("use_flow_sigmas"):
        raise refuse(
            "model_not_supported",
            f"its scheduler has use_flow_sigmas, a flow's noise, which has no betas: {LOADS}",
        )
    if betas not in BETAS and not config.get("trained_betas"):
        raise refuse(
            "model_not_supported",
            f"its scheduler has beta_schedule {str(betas)[:100]}: erasing needs {', '.join(BETAS)}, or"
            " trained_betas",
        )

    # … one for each timestep …
    trained, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 2:
        raise refuse(
            "model_broken",
            f"its scheduler has num_train_timesteps {str(steps)[:100]}: write how many there are, such as"
            " 1000",
        )
    if trained and not (isinstance(trained, list) and all(type(b) in (int, float) for b in trained)):
        raise refuse(
            "model_broken", "its scheduler's trained_betas are no list of numbers: fetch or save it again"
        )
    if trained and len(trained) != steps:
        raise refuse(
            "model_not_supported",
            f"its scheduler has {len(trained)} trained_betas for {str(steps)[:100]} timesteps: one for each"
            " is needed",
        )

    # … and a network that predicts the noise, v or the picture.
    if predicted not in PREDICTIONS:
        raise refuse(
            "model_not_supported",
            f"its scheduler has prediction_type {str(predicted)[:100]}: erasing needs"
            f" {', '.join(PREDICTIONS)}",
        )
