"""How much memory loaded cases take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from torch import Tensor


def size_of(thing: object) -> int:
    """Bytes of the tensors and arrays in a loaded case: a dataclass, a mapping or a sequence of them."""
    if isinstance(thing, Tensor):
        return thing.numel() * thing.element_size()
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if dataclasses.is_dataclass(thing):
        return sum(size_of(getattr(thing, field.name)) for field in dataclasses.fields(thing))
    if isinstance(thing, Mapping):
        return sum(size_of(value) for value in thing.values())
    if isinstance(thing, list | tuple):
        return sum(size_of(value) for value in thing)
    return 0
