"""A runner that is careless with what it was given, as a library may be: it quotes the client's words in
warnings and in its error.
"""

import logging
import warnings

from tests.support.step_runner import Outcome


def run(job, folder, *, settings, callback, checkpoints) -> Outcome:
    (concept,) = job.spec["concepts"]
    callback({"phase": "erase", "step": 1, "total": 2})
    logging.getLogger("library").warning(
        "truncated: %s, <%s>", [concept["name"]], concept["name"].replace(" ", "-")
    )
    logging.getLogger("library").error("at %s", settings.database_url.get_secret_value())
    warnings.warn(f"the target '{concept['target'].upper()}' is long", stacklevel=1)
    try:
        raise KeyError(concept["name"])
    except KeyError as error:
        raise RuntimeError(
            f"no vocabulary knows {concept['name']!r}, wanted by {job.spec['labels']}"
        ) from error
