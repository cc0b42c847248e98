"""Where the vocabulary of a preset's text tower is: in the preset, beside its weights, or in open_clip.

Beside weights it is called `tokenizer.json` or `vocab.txt`; in the store, which holds many weights, the name of the
weights and a dot stand before that (`weights.vocabulary`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from medseg_cli.errors import ModelError
from medseg_cli.models.clip.config import config_of
from medseg_cli.models.clip.words import Words, words_of
from medseg_cli.preset import Preset
from medseg_cli.weights import vocabulary
from medseg_cli.weights.catalogue import entry
from medseg_cli.weights.vocabulary import NAMES


def words_beside(preset: Preset, weights: Path | None) -> Words:
    """The vocabulary of a preset.

    Args:
        preset: small ones list their words in `options.words`; `options.vocabulary` names a file beside the preset, or
            the weights in the store whose vocabulary it is.
        weights: file with the network's weights, None for random ones.

    Raises:
        ModelError: there is none, or one of another size than the network's.
    """
    listed = _listed(preset)
    if listed:
        return words_of(config_of(preset.model), listed)
    config, found = config_of(preset.model), file_of(preset, weights)
    if found is None and not config.open_clip:
        raise _missing(preset)
    return words_of(config, found)


def file_of(preset: Preset, weights: Path | None) -> Path | None:
    """The file with the vocabulary; None where the preset lists it, open_clip has it, or there is none."""
    if _listed(preset) or preset.model.get("open_clip"):
        return None
    return next((path for path in _places(preset, weights) if path.is_file()), None)


def _listed(preset: Preset) -> list[str]:
    listed = preset.options.get("words")
    return [str(word) for word in listed] if isinstance(listed, list | tuple) else []


def _places(preset: Preset, weights: Path | None) -> Iterator[Path]:
    """Where a vocabulary may be, the surest place first."""
    named = str(preset.options.get("vocabulary") or "")
    beside = [path.parent for path in (weights, preset.path) if path is not None]
    if named.endswith(NAMES):
        yield from (folder / named for folder in reversed(beside))
        return
    for name in (named, preset.weights_name):
        if name:
            yield from vocabulary.files_of(name)
    yield from (folder / name for folder in beside for name in NAMES)


def _missing(preset: Preset) -> ModelError:
    name = str(preset.options.get("vocabulary") or preset.weights_name)
    known = entry(name)
    if known is None:
        hint = f"put the {' or '.join(NAMES)} that comes with the weights beside them"
    else:
        hint = f"medseg weights import {NAMES[0]} --name {name} (download it by hand from {known.page} )"
    return ModelError(f"preset {preset.name}: no vocabulary, so the text tower does not know its words", hint)
