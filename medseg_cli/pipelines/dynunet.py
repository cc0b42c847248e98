"""Pipeline dynunet: a scan → all labels of the preset, without a prompt.

The whole scan is brought to the preset's spacing and predicted in overlapping windows. The weighted mean
of their logits goes back to the scan's own grid, and the class with the largest one is a voxel's label, as in nnU-Net.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from medseg_cli.device import Runtime
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.geometry import (
    FULLY_IN_VIEW,
    Grid,
    overlap,
    resample,
    resample_classes,
    scan_grid,
    working_grid,
)
from medseg_cli.intensity import normalise
from medseg_cli.models.dynunet import Dynunet, build, config_of, random_network
from medseg_cli.pipelines.loading import options_of, weights_of
from medseg_cli.pipelines.precision import settle
from medseg_cli.postprocess import clean
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.stages import Stages

SCORES = 1 << 27
"""Scores (classes times voxels at the preset's spacing) that are held at a time, 512 MiB; larger scans go in parts."""


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
    model: Dynunet
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
        model = random_network(config_of(preset.model), runtime.seed) if path is None else build(path, preset.model)
        if len(preset.labels) + 1 != model.config.classes:
            raise ModelError(
                f"preset {preset.name} names {len(preset.labels)} labels, its network has {model.config.classes} "
                "classes with background",
                "use the preset.yaml that stands beside these weights",
            )
        patch_of(preset, options)
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
            classes, parts = self._classes(scan)
        with stages("postprocess"):
            mask, cleaning = self._named(classes, scan)
        labels = tuple(Label(each.value, each.name, _rgb(each.color), each.snomed or "") for each in self.preset.labels)
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
            "parts": parts,
            "cleaning": cleaning,
            "kernels": self.runtime.kernels,
        }
        return Segmentation(mask, labels, scan, provenance, tuple(notes))

    def _classes(self, scan: Scan) -> tuple[NDArray[np.integer], int]:
        """The class number of each voxel of the scan, and in how many parts the scan went."""
        image, lattice = on_lattice(scan, self.preset)
        grid = scan_grid(scan)
        patch = patch_of(self.preset, self.options)
        most = max(1, SCORES // self.model.config.classes)
        slabs = list(_slabs(grid, int(np.ceil(np.prod(lattice.shape) / most))))
        classes = []
        for slab in slabs:
            under = overlap(lattice, slab)
            # Half a window of surroundings, so that no voxel of the part is seen at a window's edge alone.
            low = [max(0, side.start - size // 2) for side, size in zip(under, patch, strict=True)]
            high = [min(of, side.stop + size // 2) for of, side, size in zip(lattice.shape, under, patch, strict=True)]
            part = image[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            with torch.inference_mode(), self.runtime.autocast():
                logits = window_logits(self.model, part, patch, self.options.overlap, self.runtime.device)
            window = lattice.window(np.array(low), (part.shape[1], part.shape[2], part.shape[3]))
            classes.append(resample_classes(logits, window, slab))
        return classes[0] if len(classes) == 1 else np.concatenate(classes, axis=2), len(slabs)

    def _named(self, classes: NDArray[np.integer], scan: Scan) -> tuple[NDArray[np.unsignedinteger], list[Any]]:
        """Class numbers (I, J, K) as the preset's label values, cleaned; and what cleaning did, label by label."""
        wide = max(label.value for label in self.preset.labels) > 255
        mask = np.zeros(classes.shape, np.uint16 if wide else np.uint8)
        for number, label in enumerate(self.preset.labels, start=1):
            mask[classes == number] = label.value
        how, cleaning = self.preset.postprocessing, []
        for label in self.preset.labels:
            if how.keep == "largest" or how.min_mm3 > 0 or how.fill_holes:
                own = mask == label.value
                cleaned = clean(own, np.zeros((0, 3)), scan.spacing, how)
                mask[own & ~cleaned.mask] = 0
                mask[cleaned.mask & (mask == 0)] = label.value
                cleaning.append({"id": label.name, "steps": cleaned.steps})
        return mask, cleaning


def check_scan(scan: Scan, preset: Preset) -> None:
    """Refuse what is no grey volume.

    Raises:
        InputError: a picture, or several channels.
    """
    if scan.is_picture or scan.provenance.format == "image":
        raise InputError(
            f"{scan.provenance.path} is a picture, and preset {preset.name} works on volumes",
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
    grid = scan_grid(scan)
    lattice = lattice_of(grid, preset)
    image, weight = resample(torch.from_numpy(scan.voxels), grid, lattice)
    image = image / weight.clamp(min=FULLY_IN_VIEW)
    return normalise(image, weight > FULLY_IN_VIEW, preset.preprocessing.intensity), lattice


def window_logits(
    model: nn.Module, image: Tensor, patch: tuple[int, int, int], share: float, device: torch.device
) -> Tensor:
    """Mean logits (C, I, J, K) float32 on the CPU, of windows that overlap by `share`, weighted by a Gaussian.

    Args:
        model: (B, 1, *patch) → (B, C, *patch), on `device`, in eval mode.
        image: (1, I, J, K) normalised; it is continued by zeros where it is smaller than a window.
        patch: size of a window.
    """
    cpu = torch.device("cpu")
    logits = sliding_window_inference(
        image[None],
        patch,
        sw_batch_size=1,
        predictor=lambda windows: model(windows).float(),
        overlap=share,
        mode="gaussian",
        sw_device=device,
        device=cpu,
    )
    return torch.as_tensor(logits)[0]


def _slabs(grid: Grid, count: int) -> Iterator[Grid]:
    """A grid in about `count` parts along k."""
    depth = max(1, -(-grid.shape[2] // max(1, count)))
    for first in range(0, grid.shape[2], depth):
        shape = (grid.shape[0], grid.shape[1], min(depth, grid.shape[2] - first))
        yield grid.window(np.array([0, 0, first]), shape)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.lstrip("#"))
    return (red, green, blue)
