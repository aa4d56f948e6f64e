"""The operator's limits for one job: steps, pictures, run time."""

from expunge.api.problems import invalid
from expunge.core.specs import JobSpec
from expunge.core.specs.cost import optimiser_steps, pictures
from expunge.store.settings import Settings


def check_limits(settings: Settings, spec: JobSpec, judged: int | None = None, prompts: int = 0) -> None:
    """Check a job against the operator's limits. `judged`, `prompts`: see `pictures`.

    Raises: Problem `invalid_request`, naming the field that asks for most.
    """
    for name, limit, unit, asked in (
        ("EXPUNGE_MAX_STEPS", settings.max_steps, "optimiser steps", optimiser_steps(spec, judged)),
        ("EXPUNGE_MAX_PICTURES", settings.max_pictures, "pictures", pictures(spec, judged, prompts)),
    ):
        total = sum(asked.values())
        if total > limit:
            field = max(asked, key=lambda name: asked[name])
            message = (
                f"the job asks for {total:,} {unit} in total, {asked[field]:,} of them by this field; this"
                f" service allows {limit:,} per job ({name})"
            )
            raise invalid(field, message, "lower it, or split the job's concepts over several jobs")
    seconds = spec.run_timeout_s or 0
    if seconds > settings.max_run_seconds:
        message = (
            f"is {seconds:,} s; this service allows {settings.max_run_seconds:,} s per job"
            " (EXPUNGE_MAX_RUN_SECONDS)"
        )
        raise invalid("run_timeout_s", message, "lower it, or omit it to get that maximum")
