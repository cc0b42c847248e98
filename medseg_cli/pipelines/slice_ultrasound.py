"""Ultrasound as machines export it: tissue in a sector, and callipers, letters and scales drawn on it and round it.

Pictures and cines only: the sector of one picture is that of all its frames, while a volume has been resampled from
sectors that are no longer there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from medseg_cli.burned_in import find_marks, without
from medseg_cli.intensity import Display
from medseg_cli.pipelines.slice_prompts import Plan
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan
from medseg_cli.sector import Sector, find_sector
from medseg_cli.slices import Plane

FRAMES = 16
"""Frames of a cine in which the sector is looked for together: tissue that one frame has in shadow, another shows."""
MOST_MARKED = 0.03
"""A picture with a larger share of marks is taken as it is: they are probably none."""
NOWHERE = -1e4
"""Logit of what is certainly not the object."""
KEPT = 8
"""Pictures that are kept after their marks were looked for: each is wanted a few times in a row."""


class Ultrasound(BaseModel):
    """What is done about the surround and the marks; in a preset's `options.ultrasound`.

    Attributes:
        sector: the surround is black for the network, and masks are cut at the sector's border.
        overlays: callipers, letters and coloured marks are painted over before the network sees a picture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sector: bool = True
    overlays: bool = True


@dataclass(eq=False)
class Insonated:
    """What is tissue in the pictures of one scan.

    Args:
        how: the preset's choice.
        sector: where; of all frames alike. None where it was not looked for.
        marked: slice index → pixels that were painted over.
        refused: slices with so many marks that they were left as they are.
        cut: pixels of the network's answers that lay outside the sector.
    """

    how: Ultrasound
    sector: Sector | None
    marked: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    cut: int = 0
    _pictures: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def picture(self, index: int, shown: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """A slice (H, W, 3) as the network is to see it, made of what `shown` returns; marks are looked for once."""
        known = self._pictures.get(index)
        if known is None:
            if len(self._pictures) >= KEPT:
                self._pictures.pop(next(iter(self._pictures)))
            known = self._pictures[index] = self._cleared(index, shown())
        return known

    def _cleared(self, index: int, shown: NDArray[np.uint8]) -> NDArray[np.uint8]:
        inside = None if self.sector is None or not self.sector.found else self.sector.inside
        if self.how.overlays:
            marks = find_marks(shown, inside)
            if marks.mean() > MOST_MARKED:
                self.refused.add(index)
            elif marks.any():
                self.marked[index] = int(marks.sum())
                shown = without(shown, marks)
        if inside is not None:
            shown = np.where(inside[..., None], shown, shown.min())
        return shown

    def within(self, logits: Tensor, level: float | None) -> Tensor:
        """Logits (H, W) with nothing of the object outside the sector; what begins at `level` there is counted."""
        if self.sector is None or not self.sector.found:
            return logits
        outside = torch.from_numpy(~self.sector.inside).to(logits.device)
        if level is not None:
            self.cut += int((logits[outside] > level).sum())
        return logits.masked_fill(outside, NOWHERE)

    def on(self, plane: Plane) -> NDArray[np.bool_] | None:
        """(I, J) where pictures across the k axis show tissue; None where no border was found."""
        if self.sector is None or not self.sector.found or plane.through != 2:
            return None
        size = {plane.rows: self.sector.inside.shape[0], plane.columns: self.sector.inside.shape[1]}
        found = np.ones((size[0], size[1], 1), dtype=bool)
        plane.put(found, 0, self.sector.inside)
        return found[..., 0]

    def notes(self, plans: list[Plan], prompt: Prompt) -> list[str]:
        """What the user should know."""
        notes = []
        if self.sector is not None and not self.sector.found:
            notes.append(f"the ultrasound sector's border was not found ({self.sector.why}): nothing was cut off")
        if self.cut:
            notes.append(f"{self.cut} pixels outside the ultrasound sector were taken out of the mask")
        if self.marked:
            count = f" in {len(self.marked)} pictures" if len(self.marked) > 1 else ""
            notes.append(
                f"callipers, letters or other marks ({sum(self.marked.values())} pixels{count}) were painted over "
                "before the network saw them; the scan is unchanged"
            )
        if self.refused:
            notes.append(f"too much looked like marks to be any, in {len(self.refused)} pictures: taken as they are")
        for target, plan in zip(prompt.targets, plans, strict=True):
            lost = sorted(index for index, each in plan.slices.items() if self._beyond(each.inside))
            if lost:
                where = ", ".join(map(str, lost))
                notes.append(f"a click of object '{target.id}' lies outside the ultrasound sector (slice {where})")
        return notes

    def _beyond(self, clicks: NDArray[np.float64]) -> bool:
        if self.sector is None or not self.sector.found:
            return False
        columns, rows = np.rint(clicks).astype(int).T
        return bool((~self.sector.inside[rows, columns]).any())

    def facts(self) -> dict[str, Any]:
        """For the report."""
        sector = None
        if self.sector is not None:
            share = round(self.sector.share, 4) if self.sector.found else None
            sector = {"found": self.sector.found, "why": self.sector.why, "share": share}
            sector |= {"cut_pixels": self.cut}
        overlays = None
        if self.how.overlays:
            overlays = {"pictures": len(self.marked), "pixels": sum(self.marked.values())}
            overlays |= {"refused": len(self.refused)}
        return {"sector": sector, "overlays": overlays}


def insonated(scan: Scan, plane: Plane, shown: Display, how: Ultrasound | None) -> Insonated | None:
    """What is tissue in a scan's pictures; None where nothing is asked for, or the scan is no ultrasound picture."""
    if how is None or not (how.sector or how.overlays):
        return None
    if scan.modality not in ("", "US", "IVUS") or not (plane.count == 1 or scan.cine):
        return None
    return Insonated(how, _sector(scan, plane, shown) if how.sector else None)


def _sector(scan: Scan, plane: Plane, shown: Display) -> Sector:
    indices = np.unique(np.linspace(0, plane.count - 1, min(FRAMES, plane.count)).round().astype(int))
    brightest = np.zeros((plane.height, plane.width), np.uint8)
    for index in indices:
        picture = shown.picture(plane.take(scan.voxels, int(index)))
        for channel in range(3):
            np.maximum(brightest, picture[..., channel], out=brightest)
    if scan.region is None:
        return find_sector(brightest)
    x0, y0, x1, y1 = scan.region
    stated = np.zeros((*scan.shape[:2], 1), dtype=bool)
    stated[max(0, x0) : x1 + 1, max(0, y0) : y1 + 1] = True
    return find_sector(brightest, plane.take(stated, 0))
