"""From what a user says to features of classes: phrasings, negatives, and what a small model knows at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medseg_cli.errors import UsageError
from medseg_cli.prompt import Prompt
from medseg_cli.prompt_text import shortened

SIDES = {"left", "right"}
"""Of which a text with one means a part of a concept, which would be drawn whole."""


class Concept(BaseModel):
    """One thing that a small model knows.

    Attributes:
        name: of its label.
        texts: phrasings that mean it, of which the model learnt some.
        words: words of which a text must have one to mean it, in lower case.
        segmenter: preset that draws its mask, instead of the pipeline's; None = the coarse mask is its mask.
        parts: largest parts of its map that are kept of each picture; None = as the pipeline's `coarse` says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    texts: tuple[str, ...] = Field(min_length=1)
    words: tuple[str, ...] = Field(min_length=1)
    segmenter: str | None = None
    parts: int | None = Field(default=None, ge=0)


@dataclass(frozen=True, eq=False)
class TextClass:
    """One class of a run.

    Args:
        name: of its label.
        positive: (E,) unit mean of its phrasings' unit features.
        negative: (N, E) unit features of what it is not; N may be 0.
        cut: tokens of its texts that the network's context had no room for.
        segmenter: preset that draws its mask; None = the coarse mask is its mask.
        parts: largest parts of its map that are kept; None = as the pipeline's `coarse` says.
    """

    name: str
    positive: Tensor
    negative: Tensor
    cut: int
    segmenter: str | None
    parts: int | None = None


def classes_of(
    prompt: Prompt,
    encode: Callable[[Sequence[str]], tuple[Tensor, tuple[int, ...]]],
    concepts: Sequence[Concept],
    negatives: Sequence[str],
    unknown: Callable[[str], list[str]],
    segmenter: str | None,
) -> tuple[TextClass, ...]:
    """One class per target of the prompt.

    Args:
        prompt: targets with texts.
        encode: texts → features (T, E), and how many tokens of each were cut off.
        concepts: what the model knows; () = any text may be asked.
        negatives: what nothing that is asked for is, of the preset. What other concepts are called is added.
        unknown: text → its words that the vocabulary does not hold.
        segmenter: preset that draws masks of classes that are no concepts.

    Raises:
        UsageError: a text that is no concept of the model.
    """
    found = []
    for target in prompt.targets:
        if target.text is None:
            raise UsageError(f"object '{target.id}' has no text", 'say what it is: --text "the lungs"')
        texts, name, drawn_by = list(target.text.positive), target.label, segmenter
        different: list[str] = []
        parts = None
        if concepts:
            concept = _concept(texts, concepts, unknown)
            name, drawn_by, parts = name or concept.name, concept.segmenter, concept.parts
            different = [text for each in concepts if each is not concept for text in each.texts]
        positive, cut = encode(texts)
        unit = torch.nn.functional.normalize
        mean = unit(unit(positive.float(), dim=-1).mean(0), dim=0)
        others = [*target.text.negative, *(text for text in (*negatives, *different) if text not in texts)]
        negative = unit(encode(others)[0].float(), dim=-1) if others else mean.new_zeros((0, len(mean)))
        found.append(TextClass(name or shortened(texts[0]), mean, negative, sum(cut), drawn_by, parts))
    return tuple(found)


def _concept(texts: Sequence[str], concepts: Sequence[Concept], unknown: Callable[[str], list[str]]) -> Concept:
    """The one concept that all texts mean.

    Raises:
        UsageError: none, or several.
    """
    known = ", ".join(concept.name for concept in concepts)
    meant: list[Concept] = []
    for text in texts:
        strange = unknown(text)
        words = set(_words(text))
        hits = [concept for concept in concepts if words & set(concept.words)]
        if strange or len(hits) != 1:
            because = f": it never learnt '{shortened(strange[0])}'" if strange and not hits else ""
            because = " and one only can be meant" if len(hits) > 1 else because
            raise UsageError(
                f"'{shortened(text)}' is not a concept of this model{because}",
                f"it knows: {known}; for anything else use a preset with a large encoder (docs/text.md)",
            )
        if len(words & SIDES) == 1:
            raise UsageError(
                f"'{shortened(text)}' is not a concept of this model: it does not tell left from right",
                f"it knows: {known}",
            )
        meant += hits
    if len({each.name for each in meant}) != 1:
        raise UsageError(f"the texts {', '.join(map(repr, texts))} mean different things", f"it knows: {known}")
    return meant[0]


def _words(text: str) -> list[str]:
    return "".join(letter.lower() if letter.isalnum() else " " for letter in text).split()
