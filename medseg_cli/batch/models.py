"""The models of a batch, loaded once in a process and kept for all its cases."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from medseg_cli.batch.settings import Settings

if TYPE_CHECKING:
    from medseg_cli.device import Runtime
    from medseg_cli.pipelines import Pipeline
    from medseg_cli.preset import Preset


TOGETHER = 8
"""Cases that share batches of a network on a GPU, if so many wait."""


class Models:
    """The presets of a run and their models, each loaded once at its first use and then kept.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._presets: dict[str, tuple[Preset, str]] = {}
        self._pipelines: dict[str, Pipeline] = {}
        self._runtime: Runtime | None = None
        self._lock = threading.Lock()

    def start(self) -> Runtime:
        """Choose the device and import what every case needs; call it first, in the main thread.

        Raises:
            DeviceError, UsageError: as `device.select`.
        """
        from medseg_cli import device, lean_imports

        if self._runtime is None:
            # Threads of torch that wait for each other burn the core that another thread reads or writes with: half of
            # the CPU time of a run on two cores. This is read when torch is imported.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            chosen = self.settings
            self._runtime = device.select(chosen.device, chosen.precision, chosen.seed, chosen.deterministic)
            lean_imports.load_networks_and_transforms()
        return self._runtime

    @property
    def together(self) -> int:
        """Most cases that are segmented in one call: what the user says, several on a GPU.

        On a CPU batches are no faster, and the bits of a mask would depend on its neighbours.
        """
        if self.settings.deterministic:
            return 1
        return self.settings.together or (TOGETHER if self.start().device.type == "cuda" else 1)

    def preset(self, name: str) -> tuple[Preset, str]:
        """The preset of a case ("" = the run's), and its fingerprint.

        Raises:
            ModelError, UsageError: as `Settings.find` and `Settings.fingerprint`.
        """
        with self._lock:
            if name not in self._presets:
                found = self.settings.find(name)
                self._presets[name] = (found, self.settings.fingerprint(found))
            return self._presets[name]

    def facts(self) -> list[dict[str, Any]]:
        """The presets that were asked for, with their weights, for reports."""
        return [
            {
                "name": preset.name,
                "file": str(preset.path) if preset.path else None,
                "weights_sha256": self.settings.weights_sha256(preset),
                "settings_sha256": fingerprint,
                "overrides": preset.changes,
            }
            for preset, fingerprint in self._presets.values()
        ]

    def pipeline(self, name: str) -> Pipeline:
        """The model of a preset ("" = the run's), on its device. Not for several threads.

        Raises:
            ModelError: weights that are missing or do not fit.
        """
        from medseg_cli import pipelines

        if name not in self._pipelines:
            runtime, (preset, _) = self.start(), self.preset(name)
            self._pipelines[name] = pipelines.build(preset, runtime, random_weights=self.settings.random_weights)
        return self._pipelines[name]


def clear_cuda() -> None:
    """Give back what a case left on the device, before the next one needs it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def spoilt(error: Exception) -> bool:
    """Whether the process cannot use its CUDA device any more: after such errors every call fails."""
    text = str(error)
    return "CUDA error" in text and "out of memory" not in text
