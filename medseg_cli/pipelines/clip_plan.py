"""What a small image-text preset takes from the captions before it learns them: its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg_cli.datasets import Case
from medseg_cli.models.clip.words import learn_words
from medseg_cli.preset import Preset

MOST_WORDS = 4000
"""Entries of a vocabulary that is learnt; published ones have 30,000 and come in a file."""


def plan(preset: Preset, labels: Mapping[int, str], cases: Sequence[Case]) -> Preset:
    """The preset with the words of the training captions, where it has neither weights nor words yet.

    Args:
        preset: of pipeline medclip-sam.
        labels: of no use here.
        cases: the training cases.
    """
    if preset.weights is not None or preset.options.get("words") or preset.model.get("open_clip"):
        return preset
    words = learn_words([text for case in cases for text in case.phrasings], MOST_WORDS)
    return preset.model_copy(
        update={
            "options": {**preset.options, "words": list(words)},
            "model": {**preset.model, "vocabulary": len(words)},
        }
    )
