"""What a whole batch is run with: frozen, and small enough to travel to other processes and machines."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medseg_cli.overrides import Overrides
from medseg_cli.writers.formats import Choices

if TYPE_CHECKING:
    from medseg_cli.preset import Preset

UNSEEN = frozenset({"title", "source", "citation", "accuracy", "licence"})
"""Keys of a preset that describe it and change no mask."""
UNSEEN_OPTIONS = frozenset({"embedding_cache", "batch"})
"""Options of pipelines that decide how fast a mask is made, not which one."""


@dataclass(frozen=True)
class Settings:
    """What every case of a run has in common.

    Args:
        out: folder of the outputs, absolute.
        preset: name or path; a case may name another one.
        weights: instead of the preset's; None leaves those.
        random_weights: True stamps every output: the masks mean nothing.
        overrides: what the user set instead of what the preset says.
        modality: what files are that do not say it; "" leaves them.
        device, precision, seed, deterministic: as `device.select` takes them.
        formats: names in `writers.formats.FORMATS`, the first the mask that reports name; () is PNG for picture files,
            NIfTI for all others.
        naming: "case" for `<id>_seg<suffix>`, "bids" for derivatives.
        choices: what users choose about the formats.
        preview: whether a picture is written.
        overwrite: whether files that no record claims may be replaced.
        together: most cases whose slices or crops may share batches of the network; 0 = `TOGETHER` on a GPU, else 1.
        command: the command line, for reports.
    """

    out: Path
    preset: str
    weights: str | None = None
    random_weights: bool = False
    overrides: Overrides = field(default_factory=Overrides)
    modality: str = ""
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    deterministic: bool = False
    formats: tuple[str, ...] = ()
    naming: Literal["case", "bids"] = "case"
    choices: Choices = field(default_factory=Choices)
    preview: bool = True
    overwrite: bool = False
    together: int = 0
    command: tuple[str, ...] = ()

    def find(self, name: str = "") -> Preset:
        """The preset `name`, or the run's, with what the user wants otherwise.

        Raises:
            ModelError: no such preset, or no such weights.
            UsageError: an override that this preset has no use for.
        """
        from medseg_cli.steps import choose_preset

        return choose_preset(name or self.preset, self.weights, self.overrides)

    def fingerprint(self, preset: Preset) -> str:
        """SHA-256 of everything but scan and prompt that changes the files of a case.

        Where it computes and how fast is no part of it, nor is medseg's version: a run continues on another machine,
        and after an update. The weights' own hash is, whatever name they go by.

        Args:
            preset: as `find` gave it.

        Raises:
            ModelError: its weights are missing or damaged.
        """
        content = preset.model_dump(mode="json", exclude=set(UNSEEN))
        content["options"] = {key: value for key, value in preset.options.items() if key not in UNSEEN_OPTIONS}
        content["weights"] = self.weights_sha256(preset)
        return fingerprint(
            {
                "preset": content,
                "modality": self.modality,
                "precision": self.precision,
                "seed": self.seed,
                "deterministic": self.deterministic,
                "formats": self.formats,
                "naming": self.naming,
                "choices": asdict(self.choices),
                "preview": self.preview,
            }
        )

    def weights_sha256(self, preset: Preset) -> list[str]:
        """Hash of the weights' file, and of the file that they belong to, if any; ["random"] for random ones.

        Raises:
            ModelError: they are missing or damaged.
        """
        from medseg_cli.weights import base

        if self.random_weights:
            return ["random"]
        found = base.resolve(preset)
        return [found.sha256, *([found.base.sha256] if found.base else [])]


def fingerprint(content: Any) -> str:
    """SHA-256 of JSON-ready data as 64 hex digits; the order of keys does not matter."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
