"""MONAI and the packages of networks, imported without what they import in turn for features that medseg does not use.

`import monai` imports every part of MONAI, and each part tries the packages it can make use of: transformers, pandas,
matplotlib, torchvision and more, most of a command's start. MONAI does without any that is not installed, so while it
is imported they are made to look as if they were not. `import segment_anything` runs its predictors, which need
torchvision, and `import torchvision` runs detection networks, which need torch's compiler; SAM's encoder and a ResNet
need none of that.
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
    "huggingface_hub",
    "ignite",
    "itk",
    "matplotlib",
    "mlflow",
    "pandas",
    "requests",
    "scipy.optimize",
    "scipy.signal",
    "skimage",
    "sklearn",
    "tensorboard",
    "torchvision",
    "transformers",
)
"""What MONAI imports where it can, and nothing that medseg takes from MONAI uses."""

PACKAGES = ("segment_anything", "torchvision", "torchvision.models")
"""Of which medseg takes networks out of submodules; what they import of each other stays out."""

_lock = Lock()


def load_networks_and_transforms() -> None:
    """Import MONAI, and let `PACKAGES` run their own code only when asked for it. What is imported already stays.

    The rest of this process sees a MONAI without its features that need `UNUSED`; the packages themselves can be
    imported as ever. For commands of one purpose, then, not for a library.
    """
    with _lock:
        if "monai" not in sys.modules:
            with as_if_not_installed(UNUSED):
                import monai  # noqa: F401  # what it leaves in sys.modules is all that is wanted
        for name in PACKAGES:
            if name not in sys.modules and (package := _deferred(name)):
                sys.modules[name] = package


@contextmanager
def as_if_not_installed(names: tuple[str, ...]) -> Iterator[None]:
    """Importing these raises ModuleNotFoundError, except for those that are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's own word for "do not import"
    try:
        yield
    finally:
        for name in hidden:
            # Another thread may have hidden it too, and be done already.
            sys.modules.pop(name, None)


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
