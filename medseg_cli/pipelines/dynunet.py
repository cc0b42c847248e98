"""Pipeline dynunet: a scan → all labels of the preset, without a prompt.

The scan is brought to the preset's spacing and predicted in overlapping windows. The weighted mean of their logits
goes back to the scan's own grid, and the class with the largest one is a voxel's label, as in nnU-Net; but block by
block, so that neither the image at that spacing nor the logits are ever there as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import find_objects
from torch import Tensor

from medseg_cli.device import Runtime
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.geometry import Grid, scan_grid, working_grid
from medseg_cli.label_blocks import label_map
from medseg_cli.models.dynunet import Dynunet, build, config_of, random_network
from medseg_cli.pipelines.class_ensemble import ClassEnsemble
from medseg_cli.pipelines.loading import members_of, options_of, weights_of
from medseg_cli.pipelines.precision import settle
from medseg_cli.postprocess import clean
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.sliding import Windows, mean_blocks
from medseg_cli.stages import Stages
from medseg_cli.working_scan import working_scan

SCORES = 1 << 28
"""Scores (classes times voxels at the preset's spacing) that are held at a time, 1 GiB."""


class Options(BaseModel):
    """Knobs of this pipeline in a preset's `options`.

    Attributes:
        patch_size: voxels of a window along the axes of the preset's orientation; planned from the dataset when absent.
        patch_voxels: most voxels of a window that is planned.
        base_filters: channels of the finest resolution of a network that is planned.
        overlap: share of a window that its neighbour covers too.
        mirror: whether training mirrors left and right; planned as no where a label is of one side.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_size: tuple[int, int, int] | None = None
    patch_voxels: int = Field(default=1 << 17, ge=4096)
    base_filters: int = Field(default=16, ge=1)
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    mirror: bool | None = None


def patch_of(preset: Preset, options: Options) -> tuple[int, int, int]:
    """The preset's window, checked against its network.

    Raises:
        ModelError: no window, or one that the network's strides do not divide.
    """
    multiple = config_of(preset.model).multiple
    size = options.patch_size
    if size is None or any(edge < 1 or edge % of for edge, of in zip(size, multiple, strict=True)):
        raise ModelError(
            f"preset {preset.name}: options.patch_size is {size}, and must be multiples of {multiple}",
            "plan a new one: medseg finetune DATASET -o RUN --preset dynunet-baseline",
        )
    return size


@dataclass(frozen=True, eq=False)
class DynunetPipeline:
    """The network on its device, with the preset that says how to feed it."""

    preset: Preset
    options: Options
    runtime: Runtime
    model: Dynunet | ClassEnsemble
    weights: dict[str, Any]

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool) -> DynunetPipeline:
        """Load the preset's weights; `random_weights` replaces them by seeded random ones and says so in every result.

        Raises:
            ModelError: wrong options or configuration, missing or misfitting weights, or labels that are not as many
                as the network's classes.
        """
        options = options_of(preset, Options)
        path, weights = weights_of(preset, random_weights)
        model: Dynunet | ClassEnsemble
        model = random_network(config_of(preset.model), runtime.seed) if path is None else build(path, preset.model)
        if len(preset.labels) + 1 != model.config.classes:
            raise ModelError(
                f"preset {preset.name} names {len(preset.labels)} labels, its network has {model.config.classes} "
                "classes with background",
                "use the preset.yaml that stands beside these weights",
            )
        patch_of(preset, options)
        others = () if random_weights else members_of(preset)
        if others:
            model = ClassEnsemble([model, *(build(each, preset.model) for each in others)])
        runtime = settle(runtime, preset, None)
        return cls(preset, options, runtime, model.eval().to(runtime.device).requires_grad_(False), weights)

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        """All labels of the preset, with the preset's values.

        Raises:
            InputError: a picture, or a scan of several channels.
            UsageError: a prompt, which this network would ignore.
        """
        if prompt.targets:
            raise UsageError(
                f"preset {self.preset.name} takes no prompt: it segments {len(self.preset.labels)} labels by itself",
                "leave the prompt out",
            )
        check_scan(scan, self.preset)
        with stages("infer"):
            mask = self._labels(scan)
        with stages("postprocess"):
            cleaning = self._clean(mask, scan)
        labels = tuple(
            Label(each.value, each.name, _rgb(each.color), each.snomed or "", each.shape or "", each.rim)
            for each in self.preset.labels
        )
        found = set(np.unique(mask).tolist())
        notes = [f"no {label.name} was found" for label in labels if label.value not in found]
        if scan.modality and "any" not in self.preset.modality and scan.modality not in self.preset.modality:
            notes.append(f"the scan is {scan.modality}, the preset is made for {', '.join(self.preset.modality)}")
        lattice = lattice_of(scan_grid(scan), self.preset)
        provenance = {
            "pipeline": self.preset.pipeline,
            "preset": self.preset.name,
            "prompted": False,
            "weights": self.weights,
            "working_shape": list(lattice.shape),
            "working_spacing_mm": [round(mm, 6) for mm in lattice.spacing],
            "cleaning": cleaning,
            "kernels": self.runtime.kernels,
        }
        return Segmentation(mask, labels, scan, provenance, tuple(notes))

    def _labels(self, scan: Scan) -> NDArray[np.unsignedinteger]:
        """The preset's label value of each voxel of the scan, as the network has it."""
        grid = scan_grid(scan)
        lattice = lattice_of(grid, self.preset)
        values = np.array([0, *(label.value for label in self.preset.labels)])
        values = values.astype(np.uint16 if values.max() > 255 else np.uint8)
        device = self.runtime.device
        with torch.inference_mode(), self.runtime.autocast():
            image = working_scan(scan, lattice, self.preset.preprocessing.intensity, device)
            windows = Windows(lattice.shape, patch_of(self.preset, self.options), self.options.overlap)
            blocks = mean_blocks(self.model, image.part, windows, self.model.config.classes, device, SCORES)
            return label_map(blocks, lattice, grid, values)

    def _clean(self, mask: NDArray[np.unsignedinteger], scan: Scan) -> list[Any]:
        """Clean a mask in place as the preset wants it, label by label; what that did."""
        how, cleaning = self.preset.postprocessing, []
        if how.keep != "largest" and how.min_mm3 == 0 and not how.fill_holes:
            return []
        boxes = find_objects(mask)
        for label in self.preset.labels:
            box = boxes[label.value - 1] if label.value <= len(boxes) else None
            # No part of a label lies outside its box, nor does any hole of it.
            inner = mask[box or (slice(0, 0),) * 3]
            own = inner == label.value
            cleaned = clean(own, np.zeros((0, 3)), scan.spacing, how)
            inner[own & ~cleaned.mask] = 0
            inner[cleaned.mask & (inner == 0)] = label.value
            cleaning.append({"id": label.name, "steps": cleaned.steps})
        return cleaning


def check_scan(scan: Scan, preset: Preset) -> None:
    """Refuse what is no grey volume.

    Raises:
        InputError: a picture, frames of one, or several channels.
    """
    if scan.flat or scan.provenance.format == "image":
        raise InputError(
            f"{scan.provenance.path} is {'frames over time' if scan.cine else 'a picture'}, and preset {preset.name} "
            "works on volumes",
            "use a preset for images (medseg presets list)",
        )
    if scan.voxels.shape[0] != 1:
        raise InputError(
            f"{scan.provenance.path} has {scan.voxels.shape[0]} channels, and pipeline dynunet takes one",
            "give one channel",
        )


def lattice_of(grid: Grid, preset: Preset) -> Grid:
    """The scan's lattice in the preset's orientation and spacing."""
    return working_grid(grid, preset.preprocessing.orientation, preset.preprocessing.spacing)


def on_lattice(scan: Scan, preset: Preset) -> tuple[Tensor, Grid]:
    """What the network sees of a scan: normalised intensities (1, I, J, K) on the working lattice, and that lattice."""
    lattice = lattice_of(scan_grid(scan), preset)
    how, voxels = preset.preprocessing.intensity, int(np.prod(lattice.shape))
    image = working_scan(scan, lattice, how, torch.device("cpu"), held=voxels)
    return image.part((0, 0, 0), lattice.shape), lattice


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.lstrip("#"))
    return (red, green, blue)
