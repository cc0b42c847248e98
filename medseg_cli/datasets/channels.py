"""Images of several channels: what they are called, and which one is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medseg_cli.errors import InputError

CHANNEL = re.compile(r"_(\d{4})$")
"""End of the name, without its format, of one of nnU-Net's images: the number of its channel."""


def channel_note(names: tuple[str, ...], channel: int, count: int) -> str:
    """Says which of an image's channels is read, and which are not."""
    named = [f"{number} ({names[number]})" if number < len(names) else str(number) for number in range(count)]
    others = ", ".join(name for number, name in enumerate(named) if number != channel)
    return f"images have {count} channels; channel {named[channel]} is read, not {others}"


def channel_names(listed: Any, listing: Path) -> tuple[str, ...]:
    """Names of the channels in the order of their numbers; () where there are none."""
    if listed is None:
        return ()
    if isinstance(listed, str):
        return (listed,)
    if isinstance(listed, list):
        return tuple(str(name) for name in listed)
    if not isinstance(listed, dict) or not all(str(key).isdigit() for key in listed):
        raise InputError(f"{listing}: the channels are {listed!r}", 'for example "channel_names": {"0": "CT"}')
    return tuple(str(name) for _, name in sorted(listed.items(), key=lambda item: int(item[0])))
