"""Texts embedded for CC-SAM: by a BERT in a local folder, or by the text tower of an image-text preset."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from medseg_cli import pipelines
from medseg_cli import preset as presets
from medseg_cli.errors import ModelError
from medseg_cli.models.cc_sam.bank import Bank
from medseg_cli.models.cc_sam.language import read_language_model
from medseg_cli.models.cc_sam.table import Table, facts_of
from medseg_cli.models.clip.checkpoint import build
from medseg_cli.pipelines.loading import weights_of
from medseg_cli.pipelines.slice_texts import Embed
from medseg_cli.pipelines.text_words import words_beside
from medseg_cli.preset import Preset
from medseg_cli.writers.atomic import atomic_output
from medseg_cli.writers.tensor_file import save_tensors


def embedder(named: str) -> tuple[str, Embed]:
    """What embeds texts, and its name for people.

    Args:
        named: folder of a BERT, or a preset of pipeline medclip-sam, whose text tower is taken.

    Raises:
        ModelError: neither, or one that cannot be read.
    """
    folder, known = Path(named).expanduser(), presets.names()
    there = bool(named) and folder.is_dir()
    if there and not (folder / presets.RUN_FILE).is_file():
        model = read_language_model(folder)
        return model.name, model
    if not there and named not in known and folder.suffix not in (".yaml", ".yml"):
        close = difflib.get_close_matches(named, known, n=1)
        raise ModelError(
            f"'{named}' is neither a folder nor a preset" + (f" (did you mean preset '{close[0]}'?)" if close else ""),
            "give a folder with a BERT, as transformers saves it, or a preset of pipeline medclip-sam",
        )
    found = presets.find(named)
    if pipelines.find(found.pipeline).words != "map":
        raise ModelError(
            f"preset {found.name} has no text tower", "give a folder with a BERT, or a preset of pipeline medclip-sam"
        )
    return f"text tower of {found.name}", _tower(found)


def embed_bank(bank: Bank, named: str) -> tuple[Table, tuple[str, ...]]:
    """The table of a bank, and notes on texts that were cut.

    Raises:
        ModelError: as `embedder`.
    """
    name, embed = embedder(named)
    vectors, notes = {}, []
    for key, texts in bank.items():
        vectors[key], cut = embed(texts.rows)
        long = sum(tokens > 0 for tokens in cut)
        if long:
            notes.append(f"{key}: {long} of {len(texts.rows)} texts are longer than {name} takes, and lost their end")
    return Table(dict(bank), vectors, name), tuple(notes)


def save_table(table: Table, path: Path, *, overwrite: bool) -> None:
    """Write a table; equal tables are equal files.

    Raises:
        InputError: the file exists, or cannot be written.
    """
    with atomic_output(path, overwrite=overwrite) as part:
        save_tensors({key: value.contiguous() for key, value in table.vectors.items()}, part, facts_of(table))


def _tower(preset: Preset) -> Embed:
    path, _ = weights_of(preset, False)
    model, words = build(path, preset.model), words_beside(preset, path)

    def embed(texts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        rows: list[Tensor] = []
        cut: list[int] = []
        for text in texts:
            tokens, lost = words([text])
            with torch.inference_mode():
                rows.append(model.encode_text(tokens)[0].float().clone())  # type: ignore[operator]
            cut += lost
        return torch.stack(rows), tuple(cut)

    return embed
