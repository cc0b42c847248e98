"""MONAI and segment_anything, imported without what they import in turn for features that medseg does not use.

`import monai` imports every part of MONAI, and each part tries the packages it can make use of: transformers, pandas,
matplotlib, torchvision and more, most of a command's start. MONAI does without any that is not installed, so while it
is imported they are made to look as if they were not. `import segment_anything` runs its predictors, which need
torchvision and through it torch's compiler; the networks inside do not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from threading import Lock
from types import ModuleType
from typing import Any

UNUSED = (
    "ignite",
    "itk",
    "matplotlib",
    "mlflow",
    "pandas",
    "scipy.signal",
    "skimage",
    "sklearn",
    "tensorboard",
    "torchvision",
    "transformers",
)
"""What MONAI imports where it can, and nothing that medseg takes from MONAI uses."""

_lock = Lock()


def load_networks_and_transforms() -> None:
    """Import both. Where either is imported already it stays as it is.

    The rest of this process sees a MONAI without its features that need `UNUSED`; the packages themselves can be
    imported as ever. For commands of one purpose, then, not for a library.
    """
    with _lock:
        if "segment_anything" not in sys.modules and (package := _deferred("segment_anything")):
            sys.modules["segment_anything"] = package
        if "monai" not in sys.modules:
            with _as_if_not_installed(UNUSED):
                import monai  # noqa: F401  # what it leaves in sys.modules is all that is wanted


@contextmanager
def _as_if_not_installed(names: tuple[str, ...]) -> Iterator[None]:
    """Importing these raises ModuleNotFoundError, except for those that are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own word for "do not import"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _deferred(name: str) -> ModuleType | None:
    """A package whose own code runs when something is asked of it; its subpackages can be imported without that."""
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        return None
    package = module_from_spec(spec)
    package.__class__ = _Deferred
    return package


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> Any:
        """Called for what the package does not have yet."""
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(f"module {self.__name__} has no attribute {name}")
        self.__class__ = ModuleType  # type: ignore[assignment]  # from here on a package as any other
        spec.loader.exec_module(self)
        return getattr(self, name)
