"""What tables that people open in a spreadsheet must not say."""

from __future__ import annotations

from typing import Any


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula, whatever a file, a label or a series was called."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
