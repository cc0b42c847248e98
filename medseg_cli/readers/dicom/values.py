"""Header values of DICOM objects that may be absent, empty or malformed."""

from __future__ import annotations

import math
import struct
from typing import Any

from pydicom.errors import BytesLengthException

from medseg_cli.errors import InputError

MALFORMED = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    struct.error,
    EOFError,
    OSError,
    BytesLengthException,
)
"""What pydicom raises while it converts a broken element on first access."""


def text(dataset: Any, keyword: str) -> str:
    """One line of text, empty when the element is absent or unreadable; control characters are dropped."""
    try:
        value = dataset.get(keyword)
    except MALFORMED:
        return ""
    if value is None:
        return ""
    return "".join(character for character in str(value) if character.isprintable()).strip()


def words(dataset: Any, keyword: str) -> tuple[str, ...]:
    """The values of a multi-valued text element in upper case, such as ImageType."""
    try:
        value = dataset.get(keyword)
    except MALFORMED:
        return ()
    if value is None:
        return ()
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return tuple(str(item).strip().upper() for item in values)


def numbers(dataset: Any, keyword: str, count: int, name: str) -> tuple[float, ...] | None:
    """`count` finite numbers, or None when the element is absent or empty.

    Raises:
        InputError: the element is there and is not `count` finite numbers; `name` says in which file.
    """
    try:
        value = dataset.get(keyword)
        if value is None or value == "" or (isinstance(value, list) and not value):
            return None
        values = [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else list(value)
        if not values or all(item is None or str(item).strip() == "" for item in values):
            return None
        result = tuple(float(item) for item in values)
    except MALFORMED as error:
        raise InputError(f"{name}: {keyword} cannot be read as {count} number(s) ({error})") from error
    if len(result) != count or not all(math.isfinite(item) for item in result):
        raise InputError(f"{name}: {keyword} should be {count} finite number(s), it is {list(result)}")
    return result


def number(dataset: Any, keyword: str, name: str) -> float | None:
    """One finite number, or None when absent or empty. Raises like `numbers`."""
    value = numbers(dataset, keyword, 1, name)
    return None if value is None else value[0]


def whole(dataset: Any, keyword: str) -> int | None:
    """A whole number that only names or counts things, None when absent or malformed."""
    try:
        value = dataset.get(keyword)
        return None if value is None or str(value).strip() == "" else int(float(str(value)))
    except MALFORMED:
        return None


def item(dataset: Any, keyword: str) -> Any | None:
    """The first item of a sequence, None when there is none."""
    try:
        sequence = dataset.get(keyword)
        return sequence[0] if sequence else None
    except MALFORMED:
        return None
