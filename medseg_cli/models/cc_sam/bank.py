"""The texts of classes: a bank in JSON, written once by people and never generated at run time (our reconstruction).

The paper has its sentences from GPT-4 and embeds them once. The bank that medseg ships was written for it: six classes
of public ultrasound sets, and the fetal head. It states organ, view, echoes, shape, margin and neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from medseg_cli.errors import InputError, ModelError
from medseg_cli.preset import Preset

SHIPPED = "ultrasound"
"""Name of the bank that comes with medseg."""
MOST_BYTES = 1 << 20
ARTICLES = ("a", "an", "the")
KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""What a class is called in banks, tables and weights."""

Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class ClassTexts(BaseModel):
    """What is said about one class.

    Attributes:
        phrase: a short noun phrase, of which detectors are asked.
        names: other words for it.
        descriptions: sentences; the first one is what evaluation says, training draws any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    phrase: Sentence
    names: tuple[Sentence, ...] = ()
    descriptions: Annotated[tuple[Sentence, ...], Field(min_length=1)]

    @property
    def rows(self) -> tuple[str, ...]:
        """The texts that a table has embeddings of, in its order: descriptions, then the phrase."""
        return (*self.descriptions, self.phrase)


Bank = dict[str, ClassTexts]
"""Class key → its texts."""


def read_bank(source: str) -> Bank:
    """A bank.

    Args:
        source: path of a JSON file `{key: {"phrase", "names", "descriptions"}}`, or "ultrasound" for the shipped one.

    Raises:
        InputError: unreadable, or no bank; names the class.
    """
    path = Path(__file__).with_name(f"{SHIPPED}.json") if source == SHIPPED else Path(source).expanduser()
    hint = f"'{SHIPPED}' is the bank that comes with medseg; docs/cc-sam.md shows the format"
    try:
        # Devices and pipes state no size, and may never end.
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES} bytes, too many for texts", hint)
        content = json.loads(data.decode("utf-8-sig"), object_pairs_hook=once)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON of texts: {error}", hint) from error
    try:
        return bank_of(content)
    except ValueError as error:
        raise InputError(f"{path}: {error}", hint) from error


def bank_of(content: Any) -> Bank:
    """A bank from plain data, as JSON and presets have it.

    Raises:
        ValueError: no mapping of classes, a class without texts, or one text that means two classes; in one line.
    """
    if not isinstance(content, Mapping) or not content:
        raise ValueError("it names no classes")
    bank: Bank = {}
    for key, texts in content.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of a class: small letters, digits and _")
        try:
            bank[key] = ClassTexts.model_validate(texts)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (key, *first["loc"])))
            raise ValueError(f"{where}: {first['msg']}") from error
    owner: dict[str, str] = {}
    for key, texts in bank.items():
        for text in (key, *texts.names, *texts.rows):
            if owner.setdefault(plain(text), key) != key:
                raise ValueError(f"'{text}' means both {owner[plain(text)]} and {key}")
    return bank


def known_texts(preset: Preset) -> Bank | None:
    """The texts that a preset's own weights know, or will after a training; None where they know none.

    Raises:
        ModelError: `options.texts` is no bank.
    """
    texts = preset.options.get("texts")
    if not texts:
        return None
    try:
        return bank_of(texts)
    except ValueError as error:
        raise ModelError(f"preset {preset.name}: options.texts: {error}") from error


def meaning(bank: Bank, text: str) -> tuple[str, int] | None:
    """Class key and row that a text means; None where the bank does not know it.

    A description means its own row; key, phrase and names mean the class, which is the first description.
    """
    wanted = plain(text)
    for key, texts in bank.items():
        if wanted in {plain(each) for each in (key, texts.phrase, *texts.names)}:
            return key, 0
        for row, each in enumerate(texts.descriptions):
            if wanted == plain(each):
                return key, row
    return None


def plain(text: str) -> str:
    """A text as it is compared: case, blanks, underscores, a first article and a last full stop make no difference."""
    words = text.casefold().replace("_", " ").rstrip(" .").split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ARTICLES else words)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys do not repeat.

    Raises:
        ValueError: one does.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found
