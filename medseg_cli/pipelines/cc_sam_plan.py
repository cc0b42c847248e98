"""What a CC-SAM preset takes from its table of texts before a training: afterwards the weights hold the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medseg_cli.datasets import Case
from medseg_cli.errors import UsageError
from medseg_cli.models.cc_sam.bank import Bank, meaning
from medseg_cli.models.cc_sam.table import read_table, rows_of
from medseg_cli.pipelines.objects import PALETTE
from medseg_cli.preset import Preset
from medseg_cli.preset_format import Label


def plan(preset: Preset, labels: Mapping[int, str], cases: Sequence[Case]) -> Preset:
    """The preset with the texts of its table, labels that these mean, and room for their embeddings in its weights.

    Args:
        preset: of pipeline cc-sam.
        labels: value → name, as the dataset names them.
        cases: of no use here.

    Raises:
        ModelError: `options.text_table` names no table, or one that does not fit the preset.
        UsageError: no label is a class of the table, so that its texts would never be learnt.
    """
    table = read_table(preset)
    if table is None:
        return preset
    texts = {key: texts.model_dump(mode="json") for key, texts in table.bank.items()}
    return preset.model_copy(
        update={
            "model": {**preset.model, "text_dim": table.width, "text_rows": rows_of(table)},
            "options": {**preset.options, "texts": texts},
            "labels": _labels(preset, labels, table.bank),
        }
    )


def _labels(preset: Preset, named: Mapping[int, str], bank: Bank) -> tuple[Label, ...]:
    """The preset's labels if the bank knows one of them, else the dataset's, else the one class that there is."""
    if any(meaning(bank, label.name) for label in preset.labels):
        return preset.labels
    if any(meaning(bank, name) for name in named.values()):
        return tuple(
            Label(value=value, name=name, color=PALETTE[number % len(PALETTE)])
            for number, (value, name) in enumerate(named.items())
        )
    if len(bank) == 1 and len(preset.labels) == 1:
        (texts,) = bank.values()
        return (preset.labels[0].model_copy(update={"name": texts.phrase}),)
    raise UsageError(
        f"the table of texts knows {', '.join(texts.phrase for texts in bank.values())}, and the labels are "
        f"{', '.join([label.name for label in preset.labels] + list(named.values()))}",
        "embed the one class that is labelled (medseg weights embed-text --class KEY), or name the dataset's labels so",
    )
