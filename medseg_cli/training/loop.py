"""The one training loop: `fit(recipe, split, plan, run, report)`. Seeded, resumable; devices by Lightning Fabric.

The randomness of step s comes from (seed, s) alone, so a resumed run draws the same samples as an uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from medseg_cli.datasets import Split
from medseg_cli.errors import DeviceError, ModelError
from medseg_cli.models.tuning import share_trained
from medseg_cli.training import checkpoints, members
from medseg_cli.training.average import Average, put
from medseg_cli.training.data import Draws, Order, batches, case_at, kept_cases, workers_for
from medseg_cli.training.memory import size_of
from medseg_cli.training.plan import Plan, Progress, Resources, Stepped, check_same
from medseg_cli.training.processes import check_batch, fabric_of, share, total
from medseg_cli.training.recipe import Recipe, optimizer_of
from medseg_cli.training.snapshot import restored, taken
from medseg_cli.training.state import State
from medseg_cli.training.step import (
    Divergence,
    NotFiniteError,
    Objective,
    Stepper,
    explained,
    is_out_of_memory,
)
from medseg_cli.training.stopping import Stop, StoppedError
from medseg_cli.training.validation import mean_scores

LOGGER = logging.getLogger("medseg.training")


@dataclass(frozen=True)
class Fitted:
    """The network with the weights of the best validation, in eval mode, on the CPU; and how it went."""

    network: nn.Module
    state: State


def fit(
    recipe: Recipe,
    split: Split,
    plan: Plan,
    run: Path,
    report: Callable[[Progress], None],
    resources: Resources = Resources(),  # noqa: B008  # frozen
    on_step: Callable[[Stepped], None] = lambda stepped: None,
    fabric: Fabric | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Fitted:
    """Train from the beginning, or go on where `run` stopped.

    Args:
        recipe: the method.
        split: `train` is learned from, `validation` is scored every `validate_every` steps; `test` is not touched.
        plan: must equal the plan of a run that is resumed.
        run: folder for checkpoints and log; made if missing.
        report: called after each validation.
        resources: device, workers.
        on_step: called after each step.
        fabric: as `fabric_of(resources, plan.precision)` makes it, which is the default.
        tell: called with what a user wants to know at the beginning.

    Raises:
        ModelError: the folder holds a run with another plan or network, or loss or gradients are not finite.
        DeviceError: out of memory with one sample, or at all under `strict`.
        StoppedError: a signal asked to stop; the checkpoint is written.
    """
    fabric = fabric or fabric_of(resources, plan.precision)
    check_batch(plan, fabric.world_size)
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    network = recipe.model(plan.seed)
    tell(share_trained(network))
    model, optimizer = fabric.setup(Objective(network, recipe), optimizer_of(recipe, network, plan))
    average = Average(network, plan.ema)
    stepper = Stepper(fabric, model, optimizer, plan)
    with kept_cases(fabric, recipe, split, run) as (cases, held):
        training = Training(recipe, split, plan, run, resources, network, average, stepper, cases, held)
        with Stop() as stop:
            training.go(report, on_step, stop)
        put(network, training.state.best)
        return Fitted(network.eval().cpu(), training.state)


@dataclass
class Training:
    """One start of a run: its parts, and `state`, which the checkpoint holds besides them."""

    recipe: Recipe
    split: Split
    plan: Plan
    run: Path
    resources: Resources
    network: nn.Module
    average: Average
    stepper: Stepper
    cases: Sequence[Any]
    held: Sequence[Any]
    divergence: Divergence = field(default_factory=Divergence)
    state: State = field(default_factory=State)
    saved: float = field(default_factory=time.monotonic)

    @property
    def fabric(self) -> Fabric:
        """The processes and their devices."""
        return self.stepper.fabric

    def go(self, report: Callable[[Progress], None], on_step: Callable[[Stepped], None], stop: Stop) -> None:
        """Steps, validations and checkpoints until the plan or the patience ends.

        Raises:
            StoppedError: after the step that was under way, with its checkpoint written.
        """
        self.state.batch = self.plan.batch_size
        self.resume()
        parts = self.drawn()
        try:
            if self.state.before is None:
                self.state.before = self.measured(stop)[0]
            while True:
                state = self.state
                if self.plan.validates_after(state.step) and not state.validated:
                    report(self.validate(stop))
                if state.step == self.plan.steps or (self.plan.patience and state.stale >= self.plan.patience):
                    return
                stepped, parts = self.step(parts)
                on_step(stepped)
                if total(self.fabric, [stop.asked])[0]:
                    raise StoppedError
                if time.monotonic() - self.saved > 60 * self.resources.minutes:
                    self.save()
        except StoppedError:
            self.save()
            LOGGER.warning("stopped after step %s of %s; the checkpoint is written", self.state.step, self.plan.steps)
            raise

    def drawn(self) -> Iterator[list[Any]]:
        """This process's samples, batch by batch, from the current step on."""
        draws = Draws(self.recipe, self.cases, self.plan.seed)
        workers = self.resources.workers
        if workers is None:
            sample = size_of(draws[0])
            workers = workers_for(self.resources.accelerator, sample * self.state.batch, self.fabric.world_size)
        fabric, plan, state = self.fabric, self.plan, self.state
        order = Order(state.step, plan.steps, plan.step_size, state.batch, fabric.global_rank, fabric.world_size)
        return batches(draws, order, workers)

    def step(self, parts: Iterator[list[Any]]) -> tuple[Stepped, Iterator[list[Any]]]:
        """One step; with smaller batches where memory runs out. Also returns where the samples go on."""
        state, plan = self.state, self.plan
        started = time.monotonic()
        while True:
            count = -(-plan.step_size // state.batch)
            try:
                own = self.stepper.gradients([next(parts) for _ in range(count)], state.step)
                break
            except NotFiniteError as error:
                raise self.explained(error) from error
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                # The error itself would keep the step's tensors alive.
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.make_room(why)
            parts = self.drawn()
        try:
            self.stepper.update(state.step)
        except NotFiniteError as error:
            raise self.explained(error) from error
        loss = total(self.fabric, [own])[0] / self.fabric.world_size
        self.average.update(state.step)
        rate = plan.learning_rate * plan.rate(state.step)
        state.step += 1
        if state.step in plan.kept and self.fabric.is_global_zero:
            members.keep(self.run, state.step, self.network)
        state.losses.append(loss)
        seconds = time.monotonic() - started
        state.seconds += seconds
        rising = self.divergence.seen(loss)
        if rising:
            LOGGER.warning("step %s: %s; a lower --learning-rate may help", state.step, rising)
        return Stepped(state.step, plan.steps, plan.step_size, loss, rate, seconds), parts

    def make_room(self, why: str) -> None:
        """Halve the batch; as many more batches per step keep the step as it was.

        Raises:
            DeviceError: the batch is one sample, may not be halved, or is shared by several processes.
        """
        state = self.state
        if state.batch == 1 or self.resources.strict or self.fabric.world_size > 1:
            raise DeviceError(
                f"out of memory in step {state.step + 1} with a batch of {state.batch}: {why}",
                "give a smaller --batch-size and a larger --accumulate, or use --amp"
                if state.batch > 1
                else "use --amp, --peft decoder, or another device",
            )
        state.batch //= 2
        self.stepper.optimizer.zero_grad(set_to_none=True)
        if self.resources.accelerator == "cuda":
            torch.cuda.empty_cache()
        LOGGER.warning(
            "out of memory in step %s: %s samples go through the network together from now on, %s still make a step",
            state.step + 1,
            state.batch,
            self.plan.step_size,
        )

    def measured(self, stop: Stop) -> list[float]:
        """What a validation measures of the averaged weights, the measure that chooses first."""
        # Of the batches' statistics each process has its own; what is scored everywhere is what the first one keeps.
        share(self.fabric, self.average.values.values())
        with self.average.applied():
            return mean_scores(self.fabric, self.recipe, self.network, self.held, self.plan.seed, stop)

    def validate(self, stop: Stop) -> Progress:
        """Validate, keep the weights if they are the best, write checkpoint and log."""
        state, plan = self.state, self.plan
        score, *others = self.measured(stop)
        rate = plan.learning_rate * plan.rate(state.step - 1)
        seconds, defaults = round(state.seconds, 3), self.recipe.defaults
        also = dict(zip(defaults.also, others, strict=True))
        line = Progress(state.step, float(np.mean(state.losses)), score, rate, seconds, defaults.metric, also)
        state.validated_with(line, {name: value.cpu().clone() for name, value in self.average.values.items()})
        self.save()
        if self.fabric.is_global_zero:
            checkpoints.write_log(self.run, state.history)
        return line

    def explained(self, error: NotFiniteError) -> ModelError:
        """The error with step, rate, loss and cases."""
        state, plan = self.state, self.plan
        first = state.step * plan.step_size
        seen = [case_at(first + index, plan.seed, len(self.split.train)) for index in range(plan.step_size)]
        names = ", ".join(dict.fromkeys(self.split.train[index].id for index in seen))
        last = state.losses[-1] if state.losses else None
        return explained(error, state.step, plan.learning_rate * plan.rate(state.step), last, plan, names)

    def save(self) -> None:
        """Write the checkpoint."""
        self.saved = time.monotonic()
        if self.fabric.is_global_zero:
            content = taken(self.plan, self.state, self.network, self.average, self.stepper)
            checkpoints.write(self.run, content)

    def resume(self) -> None:
        """Take the state of the run's last checkpoint, if it has one.

        Raises:
            ModelError: it is another plan's or another network's.
        """
        found = checkpoints.read(self.run)
        self.fabric.barrier()
        if found is None:
            return
        check_same(str(self.run), found["plan"], self.plan)
        self.state = restored(found, str(self.run), self.network, self.average, self.stepper)
        if self.fabric.is_global_zero:
            checkpoints.put_damaged_aside(self.run)
            checkpoints.write_log(self.run, self.state.history)
        LOGGER.warning("resumed after step %s of %s", self.state.step, self.plan.steps)
