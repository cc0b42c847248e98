"""Where the vocabulary of a preset's text tower is: in the preset, beside its weights, or in open_clip."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.models.clip.config import config_of
from medseg_cli.models.clip.words import NAMES, Words, words_of
from medseg_cli.preset import Preset


def words_beside(preset: Preset, weights: Path | None) -> Words:
    """The vocabulary of a preset.

    Args:
        preset: small ones list their words in `options.words`.
        weights: file with the network's weights, None for random ones.

    Raises:
        ModelError: there is none, or one of another size than the network's.
    """
    listed = preset.options.get("words")
    if isinstance(listed, list | tuple) and listed:
        return words_of(config_of(preset.model), [str(word) for word in listed])
    folders = [path.parent for path in (weights, preset.path) if path is not None]
    found = (folder / name for folder in folders for name in NAMES if (folder / name).is_file())
    return words_of(config_of(preset.model), next(found, folders[0] / NAMES[0] if folders else None))
