"""What stands beside the weights of the published Stable Diffusion models: the configurations of their parts,
by the file of a diffusers folder. A checkpoint in one file has none of it.
"""

from typing import Any

Files = dict[str, dict[str, Any]]
CUSTOM, CUSTOM_XL = "stable-diffusion-custom", "stable-diffusion-xl-custom"  # ours: sizes not published
SD1, SD2_512, SD2_768 = "stable-diffusion-v1", "stable-diffusion-v2-512", "stable-diffusion-v2-768-v"
XL_BASE = "stable-diffusion-xl-v1-base"
PARTS = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WIDTHS = [320, 640, 1280, 1280]


def files_of(architecture: str) -> Files:
    """The JSON files of a published model, by ModelSpec's name of its architecture; without the tokenizer's
    vocabulary.
    """
    if architecture == XL_BASE:
        return files_of_xl()
    second, side = architecture != SD1, 96 if architecture == SD2_768 else 64
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            **PARTS,
            "safety_checker": [None, None],
        },
        "unet/config.json": unet(second, side),
        "vae/config.json": vae(8 * side),
        "text_encoder/config.json": text_encoder(second),
        "tokenizer/tokenizer_config.json": tokenizer(second),
        "scheduler/scheduler_config.json": scheduler(architecture == SD2_768),
    }


def files_of_xl() -> Files:
    """The JSON files of Stable Diffusion XL's base model: two text encoders, CLIP ViT-L/14's and OpenCLIP
    ViT-bigG/14's.
    """
    return {
        "model_index.json": {
            "_class_name": "StableDiffusionXLPipeline",
            **PARTS,
            "force_zeros_for_empty_prompt": True,
            "scheduler": ["diffusers", "EulerDiscreteScheduler"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
        },
        # As of 2.x, with a level less and what stands beside the text
        "unet/config.json": unet(True, 128)
        | {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": WIDTHS[:3],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
            "projection_class_embeddings_input_dim": 2816,
            "transformer_layers_per_block": [1, 2, 10],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        },
        "vae/config.json": vae(1024) | {"force_upcast": True, "scaling_factor": 0.13025},
        "text_encoder/config.json": text_encoder(False),
        "text_encoder_2/config.json": text_encoder(True)
        | {
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "projection_dim": 1280,
        },
        "tokenizer/tokenizer_config.json": tokenizer(False),
        "tokenizer_2/tokenizer_config.json": tokenizer(True),
        "scheduler/scheduler_config.json": scheduler(False)
        | {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
    }


def unet(second: bool, side: int) -> dict[str, Any]:
    cross = "CrossAttnDownBlock2D"
    return {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": [5, 10, 20, 20] if second else 8,
        "block_out_channels": WIDTHS,
        "cross_attention_dim": 1024 if second else 768,
        "down_block_types": [cross, cross, cross, "DownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 4,
        "sample_size": side,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "upcast_attention": side == 96,
        "use_linear_projection": second,
    }


def vae(side: int) -> dict[str, Any]:
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": side,
        "scaling_factor": 0.18215,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
    }


def text_encoder(second: bool) -> dict[str, Any]:
    """CLIP ViT-L/14's, whole; or OpenCLIP ViT-H/14's without its last layer."""
    return {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": "gelu" if second else "quick_gelu",
        "hidden_size": 1024 if second else 768,
        "intermediate_size": 4096 if second else 3072,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 16 if second else 12,
        "num_hidden_layers": 23 if second else 12,
        "pad_token_id": 1,
        "projection_dim": 512 if second else 768,
        "vocab_size": 49408,
    }


def tokenizer(second: bool) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!" if second else "<|endoftext|>",
        "model_max_length": 77,
    }


def scheduler(is_v: bool) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction" if is_v else "epsilon",
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
