"""Tables of embedded texts: what a frozen language model made of a bank, so that nothing else ever needs that model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from medseg_cli.checkpoint_file import read_tensors, sniff
from medseg_cli.errors import ModelError
from medseg_cli.models.cc_sam.bank import Bank, bank_of, known_texts, meaning
from medseg_cli.preset import Preset

TEXTS, MADE_BY = "medseg.texts", "medseg.text_model"
"""Metadata keys of a table file: its bank as JSON, and the language model."""
_HINT = "make one: medseg weights embed-text BANK --model FOLDER -o TABLE.safetensors"


@dataclass(frozen=True, eq=False)
class Table:
    """Texts and their embeddings.

    Args:
        bank: class key → texts.
        vectors: class key → (K + 1, E) float32, a row for each of `ClassTexts.rows`.
        made_by: the language model, in words.
    """

    bank: Bank
    vectors: dict[str, Tensor]
    made_by: str = ""

    @property
    def width(self) -> int:
        """E."""
        return int(next(iter(self.vectors.values())).shape[1])

    def find(self, text: str) -> tuple[str, int] | None:
        """Class key and row that a text means, see `bank.meaning`."""
        return meaning(self.bank, text)


class TextRows(nn.Module):
    """A table's rows inside a network, so that its weights file is all that is needed: buffers (K + 1, E) by class."""

    def __init__(self, rows: Mapping[str, int], width: int) -> None:
        super().__init__()
        for key, count in rows.items():
            self.register_buffer(key, torch.zeros(count, width))

    def vectors(self) -> dict[str, Tensor]:
        """Class key → (K + 1, E), on the CPU."""
        return {key: value.detach().float().cpu() for key, value in self.named_buffers()}

    @torch.no_grad()
    def fill(self, table: Table) -> None:
        """Take over a table's rows; it was planned for this one, see `rows_of`."""
        assert table.vectors.keys() == dict(self.named_buffers()).keys()
        for key, value in self.named_buffers():
            value.copy_(table.vectors[key])


def rows_of(table: Table) -> dict[str, int]:
    """What a preset's `model.text_rows` says of a table: class key → rows."""
    return {key: len(value) for key, value in table.vectors.items()}


def read_table(preset: Preset, network: nn.Module | None = None) -> Table | None:
    """The table that goes with a preset: in the network's own weights, else the file that `options.text_table` names.

    Args:
        preset: of pipeline cc-sam; a relative path is looked for beside its file. `options.texts` is the bank of rows
            in weights, and has to agree with a file's own.
        network: with its weights; None, or one without rows, leaves the file alone.

    Returns:
        None where the preset has no table: the network then runs without text alone.

    Raises:
        ModelError: no such file, no table, or one that does not agree with the preset.
    """
    own = getattr(network, "text_rows", None)
    bank = known_texts(preset)
    if isinstance(own, TextRows) and len(vectors := own.vectors()):
        if bank is None:
            raise ModelError(f"preset {preset.name}: its weights hold embedded texts, and options.texts is missing")
        return _checked(Table(bank, vectors, "in the weights"), f"preset {preset.name}")
    named = preset.options.get("text_table")
    if not named:
        return None
    path = Path(str(named)).expanduser()
    if not path.is_absolute() and preset.path is not None:
        path = preset.path.parent / path
    table = load_table(path)
    if bank is not None and bank != table.bank:
        raise ModelError(f"preset {preset.name}: options.texts are not the texts of {path}", "take one of them out")
    width = preset.model.get("text_dim")
    if width is not None and width != table.width:
        raise ModelError(f"{path} has embeddings of {table.width} numbers, preset {preset.name} takes {width}", _HINT)
    return table


def load_table(path: Path) -> Table:
    """A table file.

    Raises:
        ModelError: unreadable, or no table.
    """
    if sniff(path) != "safetensors":
        raise ModelError(f"{path} is no table of texts", _HINT)
    vectors = {key: value.float() for key, value in read_tensors(path).items()}
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
        bank = bank_of(json.loads(facts[TEXTS]))
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no table of texts: its header does not say which", _HINT) from error
    return _checked(Table(bank, vectors, facts.get(MADE_BY, "")), str(path))


def facts_of(table: Table) -> dict[str, str]:
    """What the header of a table's file says: the bank, and the language model."""
    bank = {key: texts.model_dump(mode="json") for key, texts in table.bank.items()}
    return {TEXTS: json.dumps(bank, ensure_ascii=False), MADE_BY: table.made_by}


def _checked(table: Table, where: str) -> Table:
    """The table, if every text has one embedding, all of one width.

    Raises:
        ModelError: with the numbers that differ.
    """
    if table.bank.keys() != table.vectors.keys():
        odd = sorted(table.bank.keys() ^ table.vectors.keys())
        raise ModelError(f"{where}: texts and embeddings are not of the same classes: {', '.join(odd[:3])}", _HINT)
    for key, value in table.vectors.items():
        count = len(table.bank[key].rows)
        if value.ndim != 2 or value.shape != (count, table.width):
            raise ModelError(f"{where}: {key} has {count} texts and embeddings of shape {tuple(value.shape)}", _HINT)
        if not bool(value.isfinite().all()):
            raise ModelError(f"{where}: {key} has embeddings that are not finite numbers", _HINT)
    return table
