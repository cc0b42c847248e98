"""The embedded preset hippocampus-mr on real scans: held-back patients, disturbed inputs, and a whole brain."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import dice_mean, measured

from medseg_cli import device, pipelines, preset
from medseg_cli.datasets import Case, read_cases, split_cases
from medseg_cli.geometry import resample, scan_grid, working_grid
from medseg_cli.metrics import score
from medseg_cli.prompt import Click, Prompt, Target
from medseg_cli.readers import load_scan
from medseg_cli.scan import Provenance, Scan
from medseg_cli.stages import Stages


@pytest.fixture(scope="module")
def pipeline() -> pipelines.Pipeline:
    return pipelines.build(preset.find("hippocampus-mr"), device.select("cpu"))


@pytest.fixture(scope="module")
def held_back(shared: Path) -> tuple[Case, ...]:
    return split_cases(read_cases(shared / "data" / "hippocampus-mr"), seed=0).test


def dice_of(pipeline: pipelines.Pipeline, scan: Scan, reference: np.ndarray, click: np.ndarray) -> float:
    position = tuple(float(value) for value in click)
    prompt = Prompt((Target("1", "", (Click(position, "ijk"),)),))
    return score(pipeline.segment(scan, prompt, Stages()).mask > 0, reference, scan.spacing).dice


def test_held_back_patients(pipeline: pipelines.Pipeline, held_back: tuple[Case, ...]) -> None:
    assert dice_mean(measured(pipeline, held_back[:8], "click")) > 0.86


@pytest.mark.slow
def test_the_target_on_all_held_back_patients(pipeline: pipelines.Pipeline, held_back: tuple[Case, ...]) -> None:
    assert dice_mean(measured(pipeline, held_back, "click")) >= 0.88


def respaced(scan: Scan, reference: np.ndarray, spacing: float) -> tuple[Scan, np.ndarray]:
    grid = scan_grid(scan)
    target = working_grid(grid, "RAS", (spacing,) * 3)
    voxels = torch.cat([torch.from_numpy(scan.voxels), torch.from_numpy(reference[None].astype(np.float32))])
    both, _ = resample(voxels, grid, target)
    provenance = Provenance(Path("respaced.nii.gz"), "nifti", "")
    return Scan(both[:1].numpy(), target.affine, provenance, "MR"), both[1].numpy() > 0.5


def disturb(how: str, scan: Scan, reference: np.ndarray) -> tuple[Scan, np.ndarray]:
    if how.endswith("mm"):
        return respaced(scan, reference, float(how.removesuffix("mm")))
    voxels, affine = scan.voxels, scan.affine
    if how == "other side":
        # The mirror image of the patient, stored as it is: a right hippocampus becomes a left one.
        return Scan(voxels[:, ::-1].copy(), affine, scan.provenance, "MR"), reference[::-1].copy()
    if how == "intensity x 1000":
        return Scan(voxels * 1000, affine, scan.provenance, "MR"), reference
    if how == "intensity / 100 + 5":
        return Scan(voxels / 100 + 5, affine, scan.provenance, "MR"), reference
    raise AssertionError(how)


@pytest.mark.parametrize("how", ["0.7mm", "1.5mm", "other side", "intensity x 1000", "intensity / 100 + 5"])
def test_disturbed_scans(pipeline: pipelines.Pipeline, held_back: tuple[Case, ...], how: str) -> None:
    scores = []
    for case in held_back[:4]:
        scan, reference = disturb(how, load_scan(case.image), load_scan(case.label).voxels[0] > 0)
        middle = np.argwhere(reference)[len(np.argwhere(reference)) // 2]
        scores.append(dice_of(pipeline, scan, reference, middle))
    assert np.mean(scores) > 0.84, scores


def test_clicks_at_either_end(pipeline: pipelines.Pipeline, held_back: tuple[Case, ...]) -> None:
    scores = []
    for case in held_back[:4]:
        scan, reference = load_scan(case.image), load_scan(case.label).voxels[0] > 0
        voxels = np.argwhere(reference)
        for end in (voxels[voxels[:, 1].argmin()], voxels[voxels[:, 1].argmax()]):
            scores.append(dice_of(pipeline, scan, reference, end))
    assert np.mean(scores) > 0.83, scores


CLICKS = {
    "left": ((-26, -22, -14), (-24, -14, -20), (-28, -30, -8), (-26, -18, -18), (-30, -24, -12)),
    "right": ((28, -21, -14), (26, -14, -20), (30, -30, -8), (28, -18, -18), (32, -24, -12)),
}
"""MNI ras mm, along the hippocampus from head to tail."""


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_whole_brain_from_any_click(pipeline: pipelines.Pipeline, side: str) -> None:
    package = util.find_spec("nilearn")
    if package is None:
        pytest.skip("needs the MNI152 brain inside nilearn (extra: demo)")
    brain = Path(package.origin).parent / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    scan = load_scan(brain)
    volumes, masks = [], []
    for click in CLICKS[side]:
        prompt = Prompt((Target("1", "", (Click(click, "ras"),)),))
        masks.append(pipeline.segment(scan, prompt, Stages()).mask > 0)
        volumes.append(masks[-1].sum() * scan.voxel_volume / 1000)
    assert all(3.0 <= volume <= 4.5 for volume in volumes), volumes
    assert min(score(mask, masks[0], scan.spacing).dice for mask in masks) > 0.9
    world = scan.voxel_to_world(np.argwhere(masks[0]), "ras")
    assert np.all(world[:, 0] < 0) if side == "left" else np.all(world[:, 0] > 0)
