"""What importing the science does not load: the libraries that cost more than torch itself."""

from tests.support.imports import loaded_after

HEAVY = {
    "accelerate",
    "cv2",
    "diffusers",
    "matplotlib",
    "nudenet",
    "onnxruntime",
    "open_clip",
    "peft",
    "scipy",
    "sklearn",
    "sympy",
    "timm",
    "torchvision",
    "transformers",
}


def test_importing_the_science_loads_torch_and_none_of_the_libraries_on_top_of_it():
    found = loaded_after("import expunge.core.run, expunge.core.inspection, expunge.core.hiding")
    assert "torch" in found
    assert not found & HEAVY


def test_loading_a_model_loads_no_judge():
    found = loaded_after("from expunge import load_model", "load_model('bundled:emoji')")
    assert {"diffusers", "transformers", "peft"} <= found
    assert not found & {"nudenet", "onnxruntime", "open_clip", "timm"}


def test_the_service_s_programs_load_no_arrays():
    """Each starts many processes, and reads headers of files at most."""
    found = loaded_after("import expunge.worker.app, expunge.worker.loops, expunge.client.cli")
    assert {"celery", "sqlalchemy", "httpx"} <= found
    assert not found & (HEAVY | {"numpy", "torch"})
