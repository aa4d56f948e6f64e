"""Concept erasure for text-to-image diffusion models, as a job.

    from expunge import Expunge                        # the client of the service
    from expunge import EraseSpec, erase, load_model   # the science: pip install 'expunge[science]'

A name is imported from its module when it is first used: `import expunge` itself loads nothing else.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from expunge import extras

# For type checkers and editors; what runs is MODULES below, and a test compares the two.
if TYPE_CHECKING:
    from expunge.client import (
        ApiError as ApiError,
        Artifact as Artifact,
        BadFile as BadFile,
        BadId as BadId,
        BadSetting as BadSetting,
        Comparison as Comparison,
        ConnectionFailed as ConnectionFailed,
        Event as Event,
        Expunge as Expunge,
        ExpungeError as ExpungeError,
        FieldError as FieldError,
        Impact as Impact,
        IntegrityError as IntegrityError,
        Job as Job,
        JobError as JobError,
        JobFailed as JobFailed,
        KeyRead as KeyRead,
        Model as Model,
        NoRecoveryKey as NoRecoveryKey,
        Page as Page,
        Pause as Pause,
        Problem as Problem,
        Queue as Queue,
        WaitTimeout as WaitTimeout,
    )
    from expunge.core.checkpoints import DirectoryCheckpoints as DirectoryCheckpoints
    from expunge.core.erasure import Delta as Delta, erase as erase, register as register
    from expunge.core.errors import CoreError as CoreError
    from expunge.core.evaluation.evaluate import evaluate as evaluate
    from expunge.core.evaluation.judges import judges_for as judges_for
    from expunge.core.hiding import (
        RecoveryKey as RecoveryKey,
        hide as hide,
        load_key as load_key,
        recover as recover,
    )
    from expunge.core.inspection import inspect as inspect
    from expunge.core.models import load_model as load_model
    from expunge.core.run import (
        run_combine as run_combine,
        run_erase as run_erase,
        run_evaluate as run_evaluate,
        run_hide as run_hide,
        run_inspect as run_inspect,
    )
    from expunge.core.specs import (
        METHODS as METHODS,
        AdvUnlearnSpec as AdvUnlearnSpec,
        AgeSpec as AgeSpec,
        AllButOneSpec as AllButOneSpec,
        AntSpec as AntSpec,
        ApSpec as ApSpec,
        CaSpec as CaSpec,
        CombineSpec as CombineSpec,
        Concept as Concept,
        DebiasSpec as DebiasSpec,
        EraseAnythingSpec as EraseAnythingSpec,
        EraseSpec as EraseSpec,
        EsdSpec as EsdSpec,
        EvaluateSpec as EvaluateSpec,
        EvaluationSpec as EvaluationSpec,
        HideSpec as HideSpec,
        ImpactSpec as ImpactSpec,
        InspectSpec as InspectSpec,
        LoraSpec as LoraSpec,
        MaceSpec as MaceSpec,
        NaiveSpec as NaiveSpec,
        PruneSpec as PruneSpec,
        ReceSpec as ReceSpec,
        RecoverySpec as RecoverySpec,
        ScoreSpec as ScoreSpec,
        TextEncoderSpec as TextEncoderSpec,
        Thresholds as Thresholds,
        TimeSpec as TimeSpec,
        UceSpec as UceSpec,
    )

    __version__: str

MODULES: dict[str, str] = {
    "ApiError": "expunge.client",
    "Artifact": "expunge.client",
    "BadFile": "expunge.client",
    "BadId": "expunge.client",
    "BadSetting": "expunge.client",
    "Comparison": "expunge.client",
    "ConnectionFailed": "expunge.client",
    "Event": "expunge.client",
    "Expunge": "expunge.client",
    "ExpungeError": "expunge.client",
    "FieldError": "expunge.client",
    "Impact": "expunge.client",
    "IntegrityError": "expunge.client",
    "Job": "expunge.client",
    "JobError": "expunge.client",
    "JobFailed": "expunge.client",
    "KeyRead": "expunge.client",
    "Model": "expunge.client",
    "NoRecoveryKey": "expunge.client",
    "Page": "expunge.client",
    "Pause": "expunge.client",
    "Problem": "expunge.client",
    "Queue": "expunge.client",
    "WaitTimeout": "expunge.client",
    "Delta": "expunge.core.erasure",
    "erase": "expunge.core.erasure",
    "register": "expunge.core.erasure",
    "CoreError": "expunge.core.errors",
    "evaluate": "expunge.core.evaluation.evaluate",
    "judges_for": "expunge.core.evaluation.judges",
    "RecoveryKey": "expunge.core.hiding",
    "hide": "expunge.core.hiding",
    "load_key": "expunge.core.hiding",
    "recover": "expunge.core.hiding",
    "inspect": "expunge.core.inspection",
    "load_model": "expunge.core.models",
    "DirectoryCheckpoints": "expunge.core.checkpoints",
    "run_combine": "expunge.core.run",
    "run_erase": "expunge.core.run",
    "run_evaluate": "expunge.core.run",
    "run_hide": "expunge.core.run",
    "run_inspect": "expunge.core.run",
    "METHODS": "expunge.core.specs",
    "AdvUnlearnSpec": "expunge.core.specs",
    "AgeSpec": "expunge.core.specs",
    "AllButOneSpec": "expunge.core.specs",
    "AntSpec": "expunge.core.specs",
    "ApSpec": "expunge.core.specs",
    "CaSpec": "expunge.core.specs",
    "CombineSpec": "expunge.core.specs",
    "Concept": "expunge.core.specs",
    "DebiasSpec": "expunge.core.specs",
    "EraseAnythingSpec": "expunge.core.specs",
    "EraseSpec": "expunge.core.specs",
    "EsdSpec": "expunge.core.specs",
    "EvaluateSpec": "expunge.core.specs",
    "EvaluationSpec": "expunge.core.specs",
    "HideSpec": "expunge.core.specs",
    "ImpactSpec": "expunge.core.specs",
    "InspectSpec": "expunge.core.specs",
    "LoraSpec": "expunge.core.specs",
    "MaceSpec": "expunge.core.specs",
    "NaiveSpec": "expunge.core.specs",
    "PruneSpec": "expunge.core.specs",
    "ReceSpec": "expunge.core.specs",
    "RecoverySpec": "expunge.core.specs",
    "ScoreSpec": "expunge.core.specs",
    "TextEncoderSpec": "expunge.core.specs",
    "Thresholds": "expunge.core.specs",
    "TimeSpec": "expunge.core.specs",
    "UceSpec": "expunge.core.specs",
}
"""Public name: the module that has it."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version  # here, as it costs more than all else in this file

        value: Any = version("expunge")
    elif name in MODULES:
        value = getattr(load(name, MODULES[name]), name)
    else:
        raise AttributeError(f"module 'expunge' has no attribute '{name}'")
    globals()[name] = value
    return value


def load(name: str, module: str) -> ModuleType:
    """Import a public name's module. Raises: MissingExtra where the science is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "expunge") or not module.startswith("expunge.core."):
            raise
        raise extras.MissingExtra(f"expunge.{name}", "science", [package]) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES, "__version__"})
