"""core's own runner in a process that may have only so much memory: STARVED_MIB more than it has when the
run begins, by the kernel's limit.
"""

import os
import resource

from expunge.worker.runner import run as science


def run(job, folder, **more):
    # The libraries are loaded before the limit counts
    import nudenet  # noqa: F401
    import open_clip  # noqa: F401
    import timm  # noqa: F401
    import torch  # noqa: F401

    import expunge.core.models.stable_diffusion
    import expunge.core.run  # noqa: F401

    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + (int(os.environ["STARVED_MIB"]) << 20)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        return science(job, folder, **more)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
