"""Hostile files by the thousand: containers, tensors, pickles, archives, pictures.

Each is bad by construction.
"""

import io
import json
import math
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image
from safetensors.numpy import save_file

from tests.support import customer_models

Layers = dict[str, tuple[int, ...]]
TOY: Layers = {"unet.down.attn2.to_q": (8, 6), "unet.down.attn2.to_k": (8, 4)}
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
ONE = {
    "F64": struct.pack("<d", 1),
    "F32": struct.pack("<f", 1),
    "F16": struct.pack("<e", 1),
    "BF16": b"\x80\x3f",
}
NOT_FINITE = {
    "F64": [struct.pack("<d", x) for x in (math.nan, math.inf, -math.inf)],
    "F32": [struct.pack("<f", x) for x in (math.nan, math.inf, -math.inf)],
    "F16": [struct.pack("<e", x) for x in (math.nan, math.inf, -math.inf)],
    "BF16": [b"\xc0\x7f", b"\x80\x7f", b"\x80\xff"],
}


def toy_model(folder: Path) -> Path:
    """A model of three layers, as far as the api looks at one."""
    customer_models.copy(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    weights = {
        f"{name.removeprefix('unet.')}.weight": np.zeros(shape, np.float16) for name, shape in TOY.items()
    }
    save_file(weights, folder / "unet" / "diffusion_pytorch_model.safetensors")
    (folder / "text_encoder" / "model.safetensors").unlink()
    save_file(
        {"text_model.encoder.mlp.fc1.weight": np.zeros((8, 6), np.float16)},
        folder / "text_encoder" / "model.safetensors",
    )
    return folder


def packed(header: Any, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file, whatever its header says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def lora(layers: Layers, rank: int = 2, dtype: str = "F32") -> tuple[dict[str, Any], bytes]:
    """Header and data of a LoRA of ones that fits the layers."""
    header, data = dict[str, Any](), b""
    for layer, (out, *inner) in layers.items():
        for half, shape in (("A", [rank, *inner]), ("B", [out, rank, *(1 for _ in inner[1:])])):
            raw = ONE[dtype] * math.prod(shape)
            header[f"{layer}.lora_{half}.weight"] = {
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [len(data), len(data) + len(raw)],
            }
            data += raw
    return header, data


def mask(layers: Layers) -> tuple[dict[str, Any], bytes]:
    """Header and data of a sparse mask that prunes nothing of the layers."""
    header, data = dict[str, Any](), b""
    for layer, shape in layers.items():
        raw = bytes(-(-math.prod(shape) // 8))
        header[f"{layer}.pruned"] = {
            "dtype": "U8",
            "shape": [len(raw)],
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return header, data


class Evil:
    """What a pickle runs when it is read: it makes a file."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.trace, "w")


def archive(*names: str, content: bytes = b"x") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, content)
    return made.getvalue()


def foreign(trace: str) -> SearchStrategy[bytes]:
    """Files of other sorts: pickles (bare and in torch's zip), archives, pictures, text, noise."""
    evil = [pickle.dumps(Evil(trace), protocol) for protocol in range(6)]
    fixed = [
        *evil,
        *(b"\x80\x02" + each for each in evil),
        *(archive("archive/data.pkl", content=each) for each in evil),
        archive("../../x"),
        archive("a", content=bytes(1 << 20)),
        b"",
        b"\0",
        b"\x1f\x8b\x08\x00",
        b"ustar",
        b"%PDF-1.7",
        b"MZ",
        b"\x7fELF",
        b"\x93NUMPY\x01\x00v\x00{}",
        b"GGUF",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"{}",
        b"ckpt",
        picture("GIF"),
        zlib.compress(bytes(1000)),
    ]
    return st.one_of(
        st.sampled_from(fixed), st.binary(min_size=1, max_size=200).filter(lambda raw: raw[1:8] != bytes(7))
    )


ENTRY: dict[str, SearchStrategy[Any]] = {
    "dtype": st.sampled_from(
        ["f32", "F31", "", 5, None, [], "F32\0", "FLOAT", "F8_E4M3", "I64", "BOOL", "C64", "Q4"]
    ),
    "shape": st.one_of(
        st.sampled_from(
            [
                [-1],
                [2.5, 6],
                "2",
                None,
                {},
                [2**63, 2],
                [2**32, 2**32],
                [0, 6],
                [],
                [2, 6, 10**30],
                [[2], 6],
                [True, 6],
            ]
        ),
        st.lists(st.integers(-3, 2**64), max_size=4).filter(
            lambda shape: math.prod(shape) not in (8, 12, 16)
        ),
    ),
    "data_offsets": st.one_of(
        st.sampled_from(
            [[5, 0], [-1, 4], [0], "0", None, [0, 1.5], [0, 2**64], [0, 10**30], [1, 49], [10**6, 10**6 + 48]]
        ),
        st.lists(st.integers(-3, 2**63), min_size=2, max_size=3).filter(lambda at: at[0] != 0),
    ),
}
NAMES = st.one_of(
    st.sampled_from(
        [
            "",
            "..",
            "../../etc/passwd",
            "unet",
            "unet.",
            "unet..lora_A.weight",
            "lora_A.weight",
            "unet.down.attn2.to_q.lora_C.weight",
            "unet.down.attn2.to_q.weight",
            "x" * 10_000,
            "unet.down.attn2.to_q.lora_A.weight\n",
            "unet.down.attn2.to_q.lora_A.weight\0",
            "unet.dówn.lora_A.weight",
            "transformer.x.lora_A.weight",
            "vae.x.lora_A.weight",
            "unet.down.attn2.to_q.lora_A.bias",
            "unet.down.attn2.to_q.lora_magnitude_vector.weight",
            "unet.../x.lora_A.weight",
            "\u202eunet.lora_A.weight",
            "unet.a.pruned",
            "unet.__class__.lora_B.weight",
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=30).map(lambda text: f"zz{text}"),
)
HEADS = st.one_of(
    st.sampled_from(
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b"5",
            b'"x"',
            b"{}x",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"\xff\xfe",
            b'{"a":NaN}',
            b'{"__metadata__":5}',
            b'{"__metadata__":{"a":1}}',
            b'{"a":{}}',
            b"{'a':1}",
        ]
    ),
    st.binary(min_size=2, max_size=80).filter(lambda raw: raw[:1] != b"{"),
)
SAYING: list[Any] = [
    "",
    "{",
    "5",
    "null",
    "[]",
    "[" * 100_000,
    '"x"',
    {"r": 2},
    {"vae.r": 2},
    {"unet.r": 0},
    {"unet.r": -1},
    {"unet.r": "2"},
    {"unet.r": 2.5},
    {"unet.r": True},
    {"unet.r": 10**30},
    {"unet.lora_alpha": "x"},
    {"unet.lora_alpha": -1},
    {"unet.lora_alpha": [1]},
    {"unet.rank_pattern": {"(a+)+$": 2}},
    {"unet.alpha_pattern": {".*": 2}},
    {"unet.rank_pattern": {"to_q": "x"}},
    {"unet.target_modules": 5},
    {"unet.target_modules": ["(.*)*"]},
    {"unet.target_modules": None},
    {"unet.target_modules": []},
    {"unet.target_modules": ["nowhere"]},
    {"unet.use_dora": True},
    {"unet.megatron_config": {"x": 1}},
    {"unet.megatron_config": {"x": 1}, "unet.megatron_core": "os"},
    {"unet.init_lora_weights": "pissa"},
    {"unet.init_lora_weights": "loftq"},
    {"unet.loftq_config": {"loftq_bits": 4}},
    {"unet.eva_config": {}, "unet.init_lora_weights": "eva"},
    {"unet.layer_replication": [[0, 4]]},
    {"unet.modules_to_save": ["conv_in"]},
    {"unet.trainable_token_indices": [1]},
    {"unet.peft_type": "LOHA"},
    {"unet.bias": "all"},
    {"unet.target_parameters": ["x"]},
    {"unet.exclude_modules": 5},
    {"unet.unheard_of": 1},
    {"unet.layers_pattern": 5},
    {"r": 2},
    {".r": 2},
    {"unet.lora_alpha": 10**400},
    {"unet.alora_invocation_tokens": [1]},
    {"unet.arrow_config": {"x": 1}},
    {"unet.auto_mapping": {"base_model_class": {"x": 1}}},
    {"unet.lora_dropout": "x"},
]
"""What a file may say of its adapter and no plain LoRA does; peft's loader would go by it: regular
expressions, imports, other inits.
"""


def config(layers: Layers, rank: int = 2) -> dict[str, Any]:
    """What the LoRA above truthfully says of itself."""
    return {
        "unet.r": rank,
        "unet.lora_alpha": rank,
        "unet.target_modules": sorted({layer.removeprefix("unet.") for layer in layers}),
        "unet.peft_type": "LORA",
    }


@st.composite
def broken_delta(draw: Any, layers: Layers, trace: str) -> bytes:
    """A file that is no delta of a model with these layers."""
    dtype = draw(st.sampled_from(list(WIDTH)))
    header, data = lora(layers, draw(st.integers(1, 4)), dtype)
    good, name = packed(header, data), draw(st.sampled_from(list(header)))
    entry = header[name]
    match draw(st.integers(0, 13)):
        case 0:
            return bytes(draw(foreign(trace)))
        case 1:
            return good[: draw(st.integers(0, len(good) - 1))]
        case 2:
            return good + draw(st.binary(min_size=1, max_size=40))
        case 3:
            return packed(
                header,
                data,
                draw(
                    st.one_of(
                        st.integers(0, 2**64 - 1),
                        st.sampled_from([0, 1, 2, 16 << 20, (16 << 20) + 1, 100_000_000, 2**63, 2**64 - 1]),
                    ).filter(lambda n: n != len(json.dumps(header)))
                ),
            )
        case 4:
            return packed(draw(HEADS), data)
        case 5:
            key = draw(st.sampled_from(list(ENTRY)))
            return packed(
                {**header, name: {**entry, key: draw(ENTRY[key].filter(lambda value: value != entry[key]))}},
                data,
            )
        case 6:
            gone = draw(st.sampled_from(list(ENTRY)))
            return packed({**header, name: {k: v for k, v in entry.items() if k != gone}}, data)
        case 7:
            return packed({(draw(NAMES) if k == name else k): v for k, v in header.items()}, data)
        case 8:
            return packed(
                {
                    "__metadata__": draw(
                        st.sampled_from([5, [], "x", {"a": 1}, {"a": None}, {"a": {}}, {"a": ["x"]}])
                    ),
                    **header,
                },
                data,
            )
        case 9:
            said = draw(st.sampled_from(SAYING))
            text = (
                said
                if isinstance(said, str)
                else json.dumps(
                    {
                        **config(
                            layers, header[name]["shape"][0] if "lora_A" in name else header[name]["shape"][1]
                        ),
                        **said,
                    }
                )
            )
            return packed({"__metadata__": {"lora_adapter_metadata": text}, **header}, data)
        case 10:
            at = draw(st.integers(0, len(data) // WIDTH[dtype] - 1)) * WIDTH[dtype]
            return packed(
                header, data[:at] + draw(st.sampled_from(NOT_FINITE[dtype])) + data[at + WIDTH[dtype] :]
            )
        case 11:
            whole = {k: v for k, v in header.items() if k != name}
            at = 0
            for each in whole.values():
                size = each["data_offsets"][1] - each["data_offsets"][0]
                each["data_offsets"], at = [at, at + size], at + size
            return packed(whole, data[:at])
        case 12:
            layer = draw(st.sampled_from(list(layers)))
            return packed(*lora({**layers, layer: tuple(n + draw(st.integers(1, 3)) for n in layers[layer])}))
        case _:
            return bytes(draw(broken_mask(layers)))


@st.composite
def broken_mask(draw: Any, layers: Layers) -> bytes:
    """A file that is no sparse mask of a model with these layers."""
    layer = draw(st.sampled_from(list(layers)))
    match draw(st.integers(0, 4)):
        case 0:
            return packed(*mask({**layers, layer: (math.prod(layers[layer]) + draw(st.integers(9, 99)),)}))
        case 1:
            return packed(*mask({"unet.nowhere" + draw(st.text("abc.", max_size=9)): (8,), **layers}))
        case 2:
            header, data = mask(layers)
            header[f"{layer}.pruned"] |= {
                "dtype": draw(st.sampled_from(["I8", "BOOL", "F8_E4M3", "F8_E5M2"]))
            }
            return packed(header, data)
        case 3:
            header, data = mask(layers)
            more = lora({layer: layers[layer]})
            shifted = {
                k: {**v, "data_offsets": [at + len(data) for at in v["data_offsets"]]}
                for k, v in more[0].items()
            }
            return packed(header | shifted, data + more[1])
        case _:
            return packed(*mask(layers))[: -draw(st.integers(1, 3))]


# Pictures


def picture(kind: str, size: tuple[int, int] = (48, 40), **more: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, kind, **more)
    return made.getvalue()


def frames(kind: str) -> bytes:
    return picture(
        kind, save_all=True, append_images=[Image.new("RGB", (48, 40), colour) for colour in ("red", "blue")]
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says it is so large and holds these chunks."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + b"".join(chunks)
    )


KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
BOMB = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
END = chunk(b"IEND", b"")
UNUSABLE: list[tuple[str, bytes]] = [
    ("PNG", png(100_000, 100_000, BOMB, END)),
    ("PNG", png(2**31 - 1, 2**31 - 1, BOMB, END)),
    ("PNG", png(4097, 64, BOMB, END)),
    ("PNG", png(0, 0, BOMB, END)),
    ("PNG", png(64, 64, END)),
    ("PNG", png(64, 64)),
    ("PNG", png(64, 64, chunk(b"IDAT", b"x" * 99), END)),
    ("PNG", png(64, 64, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26))), BOMB, END)),
    ("PNG", png(64, 64, chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(1 << 26))), BOMB, END)),
    ("PNG", png(64, 64, BOMB, END, depth=3)),
    ("PNG", png(64, 64, BOMB, END, colour=9)),
    ("PNG", png(64, 64, chunk(b"acTL", struct.pack(">II", 3, 0)), BOMB, END)),
    ("PNG", frames("PNG")),
    ("WEBP", frames("WEBP")),
    ("PNG", picture("PNG", (31, 40))),
    ("JPEG", picture("JPEG", (40, 31))),
    ("WEBP", picture("WEBP", (1, 1))),
    ("PNG", frames("GIF")),
    ("JPEG", picture("TIFF")),
    ("PNG", picture("BMP")),
    ("PNG", picture("PPM")),
    ("PNG", picture("ICO")),
    ("JPEG", picture("JPEG2000")),
    ("PNG", b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>"),
    ("JPEG", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03" + bytes(40)),
    ("WEBP", b"RIFF\x24\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + b"\x00" * 4 + b"\xff" * 6 + bytes(8)),
    ("JPEG", picture("JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40)[:60]),
    ("PNG", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ("PNG", b"#EXTM3U\n"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
]
"""(what it is sent as, bytes): bombs, animations, other formats, headers that lie."""


@st.composite
def broken_picture(draw: Any, trace: str) -> tuple[str, bytes]:
    """(media type, bytes) of what is no still picture of 32 to 4096 px a side of that type."""
    kind = draw(st.sampled_from(list(KINDS)))
    good = picture(kind)
    match draw(st.integers(0, 4)):
        case 0:
            kind, content = draw(st.sampled_from(UNUSABLE))
            return KINDS[kind], content
        case 1:
            return KINDS[kind], good[: draw(st.integers(0, len(good) * 3 // 4))]
        case 2:
            other = draw(st.sampled_from([k for k in KINDS if k != kind]))
            return KINDS[kind], picture(other, (draw(st.integers(32, 60)), draw(st.integers(32, 60))))
        case 3:
            at = draw(st.integers(0, 7 if kind == "PNG" else 1))
            return KINDS[kind], good[:at] + bytes([good[at] ^ draw(st.integers(1, 255))]) + good[at + 1 :]
        case _:
            return KINDS[kind], draw(foreign(trace).filter(lambda raw: raw[:4] != good[:4]))
