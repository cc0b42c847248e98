"""What can go wrong, as typed exceptions that carry the way out.

A `MedsegError` becomes exactly one line on stderr ("what, which file, why") plus a hint ("what to do next"), and its
`exit_code` becomes the process's. Anything else is a bug and exits with 1. The table is in `docs/exit-codes.md`.
"""

from __future__ import annotations


class MedsegError(Exception):
    """An error that a user can act on.

    Args:
        message: one line: what failed, on which file, why, with the numbers.
        hint: what to type or change next; empty when the message says it already.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MedsegError):
    """The command line or a call contradicts itself (exit 2)."""

    exit_code = 2


class InputError(MedsegError):
    """A scan, prompt, dataset or output path cannot be used (exit 3)."""

    exit_code = 3


class ModelError(MedsegError):
    """Weights, presets or model configurations are missing, corrupt or do not fit (exit 4)."""

    exit_code = 4


class DeviceError(MedsegError):
    """No such device, or not enough memory on it (exit 5)."""

    exit_code = 5
