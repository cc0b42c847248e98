"""What is said about objects, as the embeddings that a 2-D network hears: from a table, or from a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.models.cc_sam.table import Table
from medseg_cli.pipelines.text_known import check_not, unknown
from medseg_cli.prompt import Prompt, Target
from medseg_cli.prompt_text import shortened

Embed = Callable[[Sequence[str]], tuple[Tensor, tuple[int, ...]]]
"""Texts → embeddings (T, E) on the CPU, and how many tokens of each had no room."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What the network hears about one object.

    Args:
        vector: (E,) of its text; None where nothing was said.
        told: for the report: class key and row of each phrasing, null where a language model embedded it.
        notes: what the user should know.
        detected: what a detector found, see `slice_boxes`; None where none was asked.
    """

    vector: NDArray[np.float32] | None = None
    told: list[dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()
    detected: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class SliceTexts:
    """Texts of one preset.

    Args:
        preset: its name.
        table: what it knows, an empty one where it has none.
        embed: a language model for everything else; None refuses it.
        made_by: name of that model.
    """

    preset: str
    table: Table
    embed: Embed | None = None
    made_by: str = ""

    def heard(self, prompt: Prompt) -> tuple[Prompt, list[Heard]]:
        """The prompt, its objects named by what was said about them, and what the network hears of each.

        Raises:
            UsageError: a text that the preset does not know, or what an object is not.
        """
        found = [self._heard(target) for target in prompt.targets]
        return Prompt(tuple(self._named(target) for target in prompt.targets)), found

    def _heard(self, target: Target) -> Heard:
        if target.text is None:
            return Heard()
        check_not(self.preset, target.text)
        rows, told, notes = [], [], []
        for text in target.text.positive:
            known = self.table.find(text)
            if known is not None:
                rows.append(self.table.vectors[known[0]][known[1]])
                told.append({"class": known[0], "row": known[1]})
                continue
            if self.embed is None:
                raise unknown(self.preset, self.table.bank, text)
            vectors, cut = self.embed([text])
            rows.append(vectors[0])
            told.append({"class": None, "row": None})
            notes.append(
                f"'{shortened(text)}' is none of the texts of preset {self.preset}: {self.made_by} embedded it"
            )
            if cut[0]:
                notes.append(f"'{shortened(text)}' is longer than {self.made_by} takes: {cut[0]} tokens were cut off")
        return Heard(torch.stack(rows).mean(0).numpy(), told, tuple(notes))

    def _named(self, target: Target) -> Target:
        """A target without a name of its own is called as what it is."""
        if target.text is None or target.label:
            return target
        text = target.text.positive[0]
        known = self.table.find(text)
        return replace(target, label=shortened(text) if known is None else self.table.bank[known[0]].phrase)
