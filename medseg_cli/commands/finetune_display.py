"""How a training run shows itself: a live line on a terminal, a plain line per validation everywhere."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import asdict
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from medseg_cli.logs import LEVELS, Talk
from medseg_cli.machine import resident
from medseg_cli.report import note, stderr
from medseg_cli.training.plan import Progress as Validated
from medseg_cli.training.plan import Stepped

LOGGER = logging.getLogger("medseg.finetune")
RECENT = 50
"""Steps over which loss and throughput are averaged for people."""


class Display:
    """Takes the steps and validations of a run and shows them.

    Args:
        talk: "quiet" shows nothing.
        name: of the run.
    """

    def __init__(self, talk: Talk, name: str) -> None:
        self._talk = talk
        self._console = stderr()
        self._quiet = LEVELS[talk] >= logging.ERROR
        self._steps: deque[Stepped] = deque(maxlen=RECENT)
        self._score = "Dice -"
        self._live: Progress | None = None
        self._task = TaskID(0)
        if self._console.is_terminal and not self._quiet:
            facts = TextColumn("{task.fields[facts]}")
            self._live = Progress(
                # Not as the text itself: brackets and braces in a name would be taken for markup and fields.
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                facts,
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                console=self._console,
                speed_estimate_period=600,
            )
            self._task = self._live.add_task(name, total=None, facts="loading")

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Something the user should know."""
        note(text, self._talk)

    def stepped(self, step: Stepped) -> None:
        """One optimiser step."""
        if self._live is None:
            return
        self._steps.append(step)
        seconds = sum(each.seconds for each in self._steps)
        loss = sum(each.loss for each in self._steps) / len(self._steps)
        speed = sum(each.samples for each in self._steps) / seconds if seconds else 0.0
        facts = f"loss {loss:.4f}  {self._score}  {speed:.1f} samples/s  {_memory()}"
        self._live.update(self._task, completed=step.step, total=step.steps, facts=facts)

    def validated(self, line: Validated) -> None:
        """One validation: a line, and a log record."""
        LOGGER.info("step %d", line.step, extra={"fields": asdict(line)})
        self._score = f"{line.metric} {line.dice:.4f}"
        if not self._quiet:
            self._console.print(
                f"step {line.step}: loss {line.loss:.4f}, validation {self._score}, "
                f"learning rate {line.learning_rate:.2e}, {line.seconds:.0f} s"
            )


def _memory() -> str:
    """What the run takes: of the GPU at its peak where there is one, else of the host now."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB CUDA"
    return f"{resident() / 2**30:.1f} GiB"
