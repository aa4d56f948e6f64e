"""Is a file a delta of a model? Asked by the api of every upload, and by core of every delta that comes from
outside, before it is loaded.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from expunge.core import sources
from expunge.core.delta_format import COMPONENTS, lora, mask
from expunge.core.delta_format.container import FLOATS, Container, read_container
from expunge.core.delta_format.errors import BadDelta, Fault
from expunge.core.errors import CoreError

Shapes = Mapping[str, Sequence[int]]


def layer_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The weight's shape (out, in, …) of every linear and convolution layer of a model in diffusers' folders,
    named `unet.…` or `text_encoder.…`; only the headers of its safetensors files are read.

    Raises: CoreError where one of them is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for component in COMPONENTS:
        for file in sorted((folder / component).glob("*.safetensors")):
            try:
                tensors = read_container(file).shapes
            except BadDelta as error:
                what = f"the model's {component}/{file.name} {error.why}: fetch it again"
                raise CoreError("model_broken", what, field="model") from error
            for name, shape in tensors.items():
                layer = name.removesuffix(".weight")
                # Norms have one dimension, and an embedding's weight is a table, not a layer's.
                if layer != name and len(shape) > 1 and not layer.endswith("embedding"):
                    shapes[f"{component}.{lora.flat(component, layer)}"] = shape
    return shapes


def check_delta(path: str | Path, source: str) -> None:
    """Refuse a file that is not a delta of the model at `source`, before it is loaded.

    Raises: BadDelta, a CoreError with field "delta"; CoreError where the model cannot be used.
    """
    try:
        file = read_container(Path(path))
    except OSError as error:
        raise BadDelta(Fault.CONTAINER, None, f"is not a safetensors file ({error})") from error
    check_container(file, layer_shapes(sources.fetch(source).folder))


def check_container(file: Container, weights: Shapes | None, model: str = "the model") -> None:
    """Refuse a file that is not a delta and, where the shapes of the model's weights are known
    (`layer_shapes`), one that does not fit them. The messages call the model `model`.

    Raises: BadDelta.
    """
    if mask.is_mask(file.tensors):
        check_mask(file, weights, model)
    else:
        check_lora(file, weights, model)


def check_lora(file: Container, weights: Shapes | None, model: str) -> None:
    """Refuse dtypes, names, settings and layers that no LoRA of the model has, then NaN and infinity."""
    for name, entry in file.tensors.items():
        if entry.dtype not in FLOATS:
            raise BadDelta(Fault.DTYPE, name, f"has dtype {entry.dtype}, not one of {', '.join(FLOATS)}")
    # An alpha's value does not matter here: whether it is finite is looked at with the others.
    pairs = lora.read(file.metadata, file.shapes, lambda _: 1.0)
    if weights is not None:
        wrong = lora.misfits(pairs, file.shapes, weights, model)
        if wrong:
            (layer, why), *others = wrong.items()
            raise BadDelta(Fault.TENSORS, layer, why, others=dict(others))
    for name in file.tensors:
        if not file.is_finite(name):
            raise BadDelta(Fault.VALUES, name, "holds NaN or infinity")


def check_mask(file: Container, weights: Shapes | None, model: str = "the model") -> None:
    """Refuse a sparse mask whose names, type or sizes are not those of the model's layers."""
    for name, entry in file.tensors.items():
        match = mask.NAME.fullmatch(name)
        if not match:
            why = "is not named unet.<layer>.pruned, as the others of this sparse mask are"
            raise BadDelta(Fault.TENSORS, name, why)
        if entry.dtype != "U8" or len(entry.shape) != 1:
            raise BadDelta(Fault.TENSORS, name, f"is {entry.dtype} {list(entry.shape)}, not a row of U8")
        if weights is None:
            continue
        layer = match["layer"]
        if layer not in weights:
            raise BadDelta(Fault.TENSORS, layer, f"{model} has no such layer")
        needed = mask.packed_size(weights[layer])
        if entry.shape[0] != needed:
            why = f"has a mask of {entry.shape[0]} bytes, where {model}'s weight {list(weights[layer])} needs"
            raise BadDelta(Fault.TENSORS, layer, f"{why} {needed}")
        if file.last_byte(name) & mask.spare_bits(weights[layer]):
            raise BadDelta(Fault.TENSORS, name, "has bits set behind its last weight")
