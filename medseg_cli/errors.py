"""What can go wrong, as typed exceptions that carry the way out.

A `MedsegError` becomes exactly one line on stderr ("what, which file, why") plus a hint ("what to do next"), and its
`exit_code` becomes the process's. Anything else is a bug and exits with 1. The table is in `docs/exit-codes.md`.
"""

from __future__ import annotations

import errno
import re
import sys

SOME_FAILED = 8
"""Exit code where some cases of many failed and the others are done."""
REPORT_BUG = "this is a bug in medseg: please report it with the command line and the traceback that --debug prints"
SYSTEM_HINTS = {
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EIO: "check the disk",
}
"""What a user can do about failures of the system that may come from anywhere."""
NO_SAME_BITS = " does not have a deterministic implementation"
"""What torch says after the name of an operation."""
_ADVICE = re.compile(
    r"https?:|weights_only|trust_remote_code|ignore_mismatched_sizes|revision=|pip install|custom code|internal miniz",
    re.IGNORECASE,
)
"""What libraries advise programmers: who runs a command cannot follow it, and loading without checks is never right."""
OUT_OF_MEMORY = "close other programs, crop the scan, or choose another --device"


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


def with_code(code: int, message: str, hint: str = "") -> MedsegError:
    """The error that ends with this exit code, for reasons that come from another process or a file."""
    kinds = {kind.exit_code: kind for kind in (UsageError, InputError, ModelError, DeviceError)}
    return kinds.get(code, MedsegError)(message, hint)


def explained(error: Exception) -> MedsegError:
    """Any exception as one that people can read; what is expected nowhere has exit code 1 and asks for a report."""
    if isinstance(error, MedsegError):
        return error
    if _is_out_of_memory(error):
        return DeviceError(f"out of memory: {str(error) or 'no more memory for this process'}", OUT_OF_MEMORY)
    if isinstance(error, RuntimeError) and NO_SAME_BITS in str(error):
        operation = str(error).split(NO_SAME_BITS)[0]
        return DeviceError(f"--deterministic: {operation} of this device cannot", "leave it out, or compute on the CPU")
    if isinstance(error, OSError) and error.errno in SYSTEM_HINTS:
        return InputError(f"{error.filename or 'the output'}: {error.strerror}", SYSTEM_HINTS[error.errno])
    return MedsegError(f"unexpected {type(error).__name__}: {error}", REPORT_BUG)


def without_advice(error: Exception) -> str:
    """What a library's exception says, in one line and up to where its advice begins; a lone word after its kind."""
    kept = []
    for sentence in re.split(r"(?<=[.!?])\s+", " ".join(str(error).split())):
        if _ADVICE.search(sentence):
            break
        kept.append(sentence)
    text = " ".join(kept)[:200]
    return text if " " in text else f"{type(error).__name__} {text}".rstrip()


def _is_out_of_memory(error: Exception) -> bool:
    """Python's, numpy's and torch's ways to say so; torch has no type for a failed allocation in host memory."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "MPS backend out of memory" in text)
