"""What the operator lets one job ask for: steps, pictures, run time."""

from expunge.api.problems import invalid
from expunge.core.specs import JobSpec
from expunge.core.specs.cost import optimiser_steps, pictures
from expunge.store.settings import Settings


def check(settings: Settings, spec: JobSpec, judged: int | None = None) -> None:
    """422 for a job that asks for more than the operator's maxima, naming the field that asks for most.

    `judged`: see `pictures`.
    """
    for name, most, what, asked in (
        ("EXPUNGE_MAX_STEPS", settings.max_steps, "optimiser steps", optimiser_steps(spec)),
        ("EXPUNGE_MAX_PICTURES", settings.max_pictures, "pictures", pictures(spec, judged)),
    ):
        total = sum(asked.values())
        if total > most:
            field = max(asked, key=lambda name: asked[name])
            message = (
                f"the job asks for {total:,} {what} in all, {asked[field]:,} of them here; this service"
                f" allows {most:,} a job ({name})"
            )
            raise invalid(field, message, "lower it, or split the job's concepts over several jobs")
    if (seconds := spec.run_timeout_s or 0) > settings.max_run_seconds:
        message = (
            f"is {seconds:,} s; this service allows {settings.max_run_seconds:,} s a job"
            " (EXPUNGE_MAX_RUN_SECONDS)"
        )
        raise invalid("run_timeout_s", message, "lower it, or omit it for that maximum")
