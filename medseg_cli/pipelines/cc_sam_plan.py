"""What a CC-SAM preset takes from its table of texts before a training: afterwards the weights hold the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg_cli.datasets import Case
from medseg_cli.models.cc_sam.table import read_table, rows_of
from medseg_cli.preset import Preset


def plan(preset: Preset, labels: Mapping[int, str], cases: Sequence[Case]) -> Preset:
    """The preset with the texts of its table, and room for their embeddings in its weights.

    Args:
        preset: of pipeline cc-sam.
        labels, cases: of no use here.

    Raises:
        ModelError: `options.text_table` names no table, or one that does not fit the preset.
    """
    table = read_table(preset)
    if table is None:
        return preset
    texts = {key: texts.model_dump(mode="json") for key, texts in table.bank.items()}
    return preset.model_copy(
        update={
            "model": {**preset.model, "text_dim": table.width, "text_rows": rows_of(table)},
            "options": {**preset.options, "texts": texts},
        }
    )
