"""Debiasing by training (AGE on Eq. 17): count the attributes on the way, draw those more often that are
found too seldom, keep the best.

Guidance at sampling favours whichever attribute is nearer, so that training in equal shares does not draw in
equal shares, and a small change tips them over. So the shares are moved by less and less, and of the rounds
in the second half of the training, and its end, the adapter whose counts come nearest to what was asked is
the one that stays. All of this is ours.
"""

from typing import Any

import torch
from torch import Tensor

from expunge.core.erasure.debias.counting import Counter
from expunge.core.erasure.debias.spread import Shares
from expunge.core.erasure.method import Run
from expunge.core.specs import AgeSpec


class Balance:
    """The counters of a run's debiased concepts, and the best adapter so far."""

    def __init__(self, run: Run[AgeSpec], searches: dict[int, Shares]) -> None:
        self.run, self.spec, self.searches = run, run.spec.debias, searches if run.spec.debias.rounds else {}
        self.counters = {i: Counter(run.model, run.concepts[i], self.spec, run.seed) for i in self.searches}
        self.total = run.spec.steps * len(run.concepts)
        self.distance, self.step, self.adapter = 2.0, 0, dict[str, Tensor]()

    def before(self, step: int) -> None:
        """Count and move the shares where a round is due: `rounds` of them, evenly spaced, the last after
        the last step.
        """
        turn = step * self.spec.rounds // self.total
        if self.searches and step and turn > (step - 1) * self.spec.rounds // self.total:
            self.count(turn, step)

    def count(self, turn: int, step: int) -> None:
        worst = 0.0
        for i, counter in self.counters.items():
            lacks, distance = counter.lacks(turn, lambda message: self.report(step, message))
            found = zip(self.searches[i].names, (counter.asked - lacks).tolist(), strict=True)
            self.report(
                step, "found of each attribute: " + ", ".join(f"{name} {share:.0%}" for name, share in found)
            )
            if float(lacks.abs().max()) > self.spec.tolerance:
                self.searches[i].move(self.spec.step_size / turn**0.5 * lacks)
            worst = max(worst, distance)
        if 2 * step >= self.total and worst <= self.distance:
            self.distance, self.step, self.adapter = worst, step, self.run.model.adapter_state()

    def report(self, step: int, message: str) -> None:
        self.run.callback({"phase": "erase", "step": step, "total": self.total, "message": message})

    def finish(self) -> dict[str, Any]:
        """The last count; then the model wears the best adapter.

        Says at which step it was had, and its distance.
        """
        if not self.searches:
            return {}
        self.count(self.spec.rounds, self.total)
        self.run.model.set_adapter_state(self.adapter)
        return {"kept_step": self.step, "counted_distance": self.distance}

    def state(self) -> dict[str, Tensor]:
        if not self.adapter:
            return {}
        return {
            "best": torch.tensor([self.distance, self.step], dtype=torch.float64),
            **{f"best.{k}": v for k, v in self.adapter.items()},
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        if "best" in state:
            self.distance, self.step = float(state["best"][0]), int(state["best"][1])
            self.adapter = {k.removeprefix("best."): v for k, v in state.items() if k.startswith("best.")}
