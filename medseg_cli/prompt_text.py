"""Prompts in words: `--text`, and a YAML file with several phrasings of each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Prompt, Target, Text

EXAMPLE = '--text "the lungs" or --text lungs="both lungs of a chest radiograph"'
MOST_BYTES = 1 << 20


def texts_of(typed: Sequence[str], table: Path | None) -> Prompt:
    """One object per text.

    Args:
        typed: "what it is", or "name=what it is"; the same name again is another phrasing of it.
        table: YAML, class name → a text, a list of texts, or a mapping with `positive` and `negative`.

    Raises:
        UsageError: an empty text, or a name without one.
        InputError: the table is none.
    """
    classes: dict[str, Text] = {}
    for number, each in enumerate(typed, start=1):
        name, text = _parse(each)
        before = classes.get(name or f"\0{number}", Text(()))
        classes[name or f"\0{number}"] = Text((*before.positive, text))
    if table is not None:
        for name, text_of in _read(table).items():
            if name in classes:
                raise UsageError(f"--text and {table} both say what {name} is", "say it in one place")
            classes[name] = text_of
    # A class without a name is called as its text, which the model decides.
    return Prompt(
        tuple(
            Target(str(number), "" if name.startswith("\0") else name, text=text)
            for number, (name, text) in enumerate(classes.items(), start=1)
        )
    )


def _parse(typed: str) -> tuple[str, str]:
    """(name or "", text) of one --text."""
    name, sign, text = typed.partition("=")
    if not sign:
        name, text = "", typed
    name, text = name.strip(), text.strip().strip('"').strip()
    if not text or (sign and not name):
        raise UsageError(f"--text '{typed}' says nothing" if not text else f"--text '{typed}' has no name", EXAMPLE)
    return name, text


def _read(table: Path) -> dict[str, Text]:
    try:
        if table.stat().st_size > MOST_BYTES:
            raise InputError(f"{table} has {table.stat().st_size} bytes, too many for texts", "give a YAML of texts")
        content = yaml.safe_load(table.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {table}: {error.strerror}", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{table} is no YAML: {str(error).splitlines()[0]}", "docs/text.md shows one") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{table} names no classes", "write one a line: lungs: [the lungs, both lungs]")
    return {str(name): _text(name, value, table) for name, value in content.items()}


def _text(name: Any, value: Any, table: Path) -> Text:
    if isinstance(value, dict):
        unknown = sorted(set(map(str, value)) - {"positive", "negative"})
        if unknown:
            raise InputError(f"{table}: class {name} has {', '.join(unknown)}", "known are positive and negative")
        positive, negative = _list(value.get("positive")), _list(value.get("negative"))
    else:
        positive, negative = _list(value), ()
    if not positive or not all(text.strip() for text in (*positive, *negative)):
        raise InputError(f"{table}: class {name} has no text", "give a text, or a list of texts")
    return Text(positive, negative)


def _list(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(each) for each in value) if isinstance(value, list) else (str(value),)
