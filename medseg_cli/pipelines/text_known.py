"""Refusing texts that a network which hears words as a prompt does not know, before anything is read: without torch."""

from __future__ import annotations

from medseg_cli import pipelines
from medseg_cli.errors import UsageError
from medseg_cli.models.cc_sam.bank import Bank, known_texts, meaning
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt, Text
from medseg_cli.prompt_text import shortened


def check_texts(preset: Preset, prompt: Prompt) -> None:
    """Refuse texts that the preset's own `options.texts` do not hold; without these nothing can be said yet.

    Other networks than those that hear words as a prompt are asked later.

    Raises:
        UsageError: says what it knows.
        ModelError: `options.texts` is no bank.
    """
    said = [target.text for target in prompt.targets if target.text is not None]
    if not said or pipelines.find(preset.pipeline).words != "prompt":
        return
    for text in said:
        check_not(preset.name, text)
    bank = known_texts(preset)
    if bank is None or preset.options.get("text_model"):
        return
    for each in (each for text in said for each in text.positive):
        if meaning(bank, each) is None:
            raise unknown(preset.name, bank, each)


def example(preset: Preset) -> str:
    """A text that makes sense to a preset, for hints."""
    texts = preset.options.get("texts")
    first = next(iter(texts.values()), None) if isinstance(texts, dict) else None
    return str(first["phrase"]) if isinstance(first, dict) and "phrase" in first else "the lungs"


def check_not(preset: str, text: Text) -> None:
    """Raises: UsageError, where it says what an object is not."""
    if text.negative:
        raise UsageError(f"preset {preset} hears what an object is, and nothing of what it is not", "leave --not out")


def unknown(preset: str, bank: Bank, text: str) -> UsageError:
    """The error for a text that a bank does not hold."""
    if not bank:
        return UsageError(
            f"preset {preset} has no table of texts, so nothing can be said to it",
            "point at the object; or give --text-model the language model that it was trained with",
        )
    phrases = ", ".join(texts.phrase for texts in bank.values())
    return UsageError(
        f"'{shortened(text)}' is no text of preset {preset}",
        f"it knows: {phrases}, by their names and descriptions (medseg presets show NAME); "
        "--text-model FOLDER embeds any other",
    )
