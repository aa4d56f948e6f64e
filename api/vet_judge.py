"""Check an uploaded judge: container, settings, finite values.

The worker checks it once more, and its tensors against its network, before loading it (core/judge_format).
"""

from pathlib import Path
from typing import Any

from expunge.api.problems import Problem
from expunge.api.vet_delta import MAX_HEADER
from expunge.core.delta_format.container import read_container
from expunge.core.delta_format.errors import BadDelta
from expunge.core.judge_format import BadJudge, ClipSettings, is_judge, read_settings


def is_judge_file(path: Path) -> bool:
    """Whether an upload says that it is a judge. Of a file that is no safetensors file: False."""
    try:
        return is_judge(read_container(path, MAX_HEADER))
    except BadDelta:
        return False


def check(path: Path) -> dict[str, Any]:
    """Check that an upload is a judge; returns what is stored of it. Raises: Problem `bad_judge`."""
    try:
        settings = read_settings(path, MAX_HEADER)
    except BadJudge as error:
        raise Problem("bad_judge", f"The judge {error.why}.") from error
    return {"judge": "open_clip" if isinstance(settings, ClipSettings) else "timm"}
