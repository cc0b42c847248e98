"""Prompts in words: `--text`, and a YAML file with several phrasings of each class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from medseg_cli.errors import InputError, UsageError
from medseg_cli.preset_yaml import StrictLoader
from medseg_cli.prompt import Prompt, Target, Text

EXAMPLE = '--text "the lungs" or --text lungs="both lungs of a chest radiograph"'
MOST_BYTES = 1 << 20
LONGEST_NAME = 64
"""Characters of a text that may name a class."""
NAME = re.compile(r"\w[\w .,()/+-]{0,63}")
"""What may stand before the "=" of a text: the name of its class."""


def texts_of(typed: Sequence[str], table: Path | None = None, nots: Sequence[str] = ()) -> Prompt:
    """One object per text, in the order in which they were typed.

    Args:
        typed: "what it is", or "name=what it is"; the same name again is another phrasing of it.
        table: YAML, class name → a text, a list of texts, or a mapping with `positive` and `negative`.
        nots: "what it is not" of every class, or "name=what it is not" of one.

    Raises:
        UsageError: an empty text, a text that is there twice, a name without a text, `nots` of no class, or a text that
            a class both is and is not.
        InputError: the table is none.
    """
    classes: dict[str, Text] = {}
    for number, (name, text) in enumerate((_parse(each, "--text") for each in typed), start=1):
        if any(text in each.positive for each in classes.values()):
            raise UsageError(f"the text '{_short(text)}' is there twice", "leave one of them out")
        # A class without a name is called as its text, which the model decides.
        key = name or f"\0{number}"
        classes[key] = Text((*classes.get(key, Text(())).positive, text))
    if table is not None:
        for name, text_of in _read(table).items():
            if name in classes:
                raise UsageError(f"--text and {table} both say what {name} is", "say it in one place")
            classes[name] = text_of
    for name, text in (_parse(each, "--not") for each in nots):
        if not classes or (name and name not in classes):
            known = ", ".join(each for each in classes if not each.startswith("\0"))
            raise UsageError(
                f"--not '{_short(text)}' says what {name or 'something'} is not, and there is no text that says what "
                "it is",
                f"classes with a name are: {known}" if known else EXAMPLE,
            )
        for key in [name] if name else list(classes):
            classes[key] = replace(classes[key], negative=(*classes[key].negative, text))
    for each in classes.values():
        both = next((text for text in each.positive if text in each.negative), None)
        if both is not None:
            raise UsageError(f"'{_short(both)}' is said to be what is meant, and what is not", "leave one of them out")
    return Prompt(
        tuple(
            Target(str(number), "" if name.startswith("\0") else name, text=text)
            for number, (name, text) in enumerate(classes.items(), start=1)
        )
    )


def _parse(typed: str, option: str) -> tuple[str, str]:
    """(name or "", text) of one --text or --not."""
    name, sign, text = typed.partition("=")
    if not sign:
        name, text = "", typed
    name, text = name.strip(), text.strip().strip('"').strip()
    if not _says(text):
        raise UsageError(f"{option} '{_short(typed)}' says nothing", EXAMPLE)
    if sign and not NAME.fullmatch(name):
        raise UsageError(
            f"{option} '{_short(typed)}': {f'{_short(name)!r} is no name of a class' if name else 'there is no name'} "
            "before the =",
            f"{EXAMPLE}; names have up to 64 letters, digits and spaces",
        )
    return name, text


def _says(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(letter.isalnum() for letter in text)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _read(table: Path) -> dict[str, Text]:
    try:
        # Devices and pipes state no size, and may never end.
        with table.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(f"{table} has more than {MOST_BYTES} bytes, too many for texts", "give a YAML of texts")
        content = yaml.load(data.decode("utf-8-sig"), Loader=StrictLoader)
    except OSError as error:
        raise InputError(f"cannot read {table}: {error.strerror}", "check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Bytes that are no UTF-8 and a date that does not exist are both a ValueError.
        raise InputError(f"{table} is no YAML: {str(error).splitlines()[0]}", "docs/text.md shows one") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{table} names no classes", "write one a line: lungs: [the lungs, both lungs]")
    return {_name(name, table): _text(name, value, table) for name, value in content.items()}


def _name(name: Any, table: Path) -> str:
    if isinstance(name, bool) or not isinstance(name, str | int) or not NAME.fullmatch(str(name).strip()):
        raise InputError(
            f"{table}: {_short(repr(name))} is no name of a class", "names have up to 64 letters, digits and spaces"
        )
    return str(name).strip()


def _text(name: Any, value: Any, table: Path) -> Text:
    if isinstance(value, dict):
        unknown = sorted(set(map(str, value)) - {"positive", "negative"})
        if unknown:
            raise InputError(f"{table}: class {name} has {', '.join(unknown)}", "known are positive and negative")
        positive, negative = _list(value.get("positive")), _list(value.get("negative"))
    else:
        positive, negative = _list(value), ()
    if any(not isinstance(text, str) for text in (*positive, *negative)):
        raise InputError(f"{table}: class {name} has something that is no text", "give a text, or a list of texts")
    if not positive or not all(_says(text) for text in (*positive, *negative)):
        raise InputError(f"{table}: class {name} has no text", "give a text, or a list of texts")
    return Text(tuple(dict.fromkeys(positive)), tuple(dict.fromkeys(negative)))


def _list(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def shortened(text: str) -> str:
    """A text as it may stand in a message or name a class, in one line."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3] + "..."
