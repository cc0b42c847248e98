"""Crops of several objects and cases in one batch: each gets what it would get alone, and keeps its own errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from test_sam3d_pipeline import TINY, at, build, official, scan_of, texture, tiny

from medseg_cli import preset
from medseg_cli.errors import InputError, UsageError
from medseg_cli.models.sam3d.encoder import ImageEncoder
from medseg_cli.pipelines import sam3d_crops
from medseg_cli.pipelines.sam3d_objects import Found, Objects
from medseg_cli.preset_format import Postprocessing
from medseg_cli.prompt import Click, Prompt, Target
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages

SAME = 1e-3
"""Share of voxels in which masks may differ: sums are rounded otherwise in another batch."""


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops went through the encoder in each call."""
    sizes: list[int] = []
    original = ImageEncoder.forward

    def forward(self: ImageEncoder, image: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(image))
        return original(self, image)

    monkeypatch.setattr(ImageEncoder, "forward", forward)
    return sizes


def case(number: int) -> tuple[Scan, Prompt]:
    """A scan of its own size and spacing, with objects of one, two and three clicks."""
    scan = scan_of(texture((24 + number, 30 - number, 21 + 2 * number), number), np.diag([1.0, 1.2, 0.9, 1.0]))
    clicks = [(9.0, 11.0, 8.0), (13.0, 14.0, 10.0), (17.0, 9.0, 15.0)]
    targets = (Target("a", "", tuple(Click(each) for each in clicks[: number % 3 + 1])), at((18.0, 22.0, 12.0)))
    return scan, Prompt(targets[: 1 + number % 2])


def objects(count: int) -> tuple[Scan, Prompt]:
    """One scan with several objects."""
    clicks = np.random.default_rng(count).uniform(4, 28, (count, 3))
    targets = [Target(str(number), "", (Click(tuple(each)),)) for number, each in enumerate(clicks.tolist())]
    return scan_of(texture((33, 32, 31), count)), Prompt(tuple(targets))


def agree(one: Segmentation, other: object) -> None:
    assert isinstance(other, Segmentation)
    assert np.mean(one.mask != other.mask) <= SAME
    assert (one.mask > 0).any()
    assert {**one.provenance, "cleaning": 0} == {**other.provenance, "cleaning": 0}
    assert [each["id"] for each in one.provenance["cleaning"]] == [each["id"] for each in other.provenance["cleaning"]]
    assert one.notes == other.notes
    assert one.labels == other.labels
    assert one.scan is other.scan


@pytest.mark.parametrize("batch", [None, 2])
def test_cases_together_are_segmented_as_alone(encoded: list[int], batch: int | None) -> None:
    jobs = [case(number) for number in range(4)]
    pipeline = build(tiny(batch=1, max_crops=3))
    alone = [pipeline.segment(scan, prompt, Stages()) for scan, prompt in jobs]
    assert set(encoded) == {1}
    crops = sum(encoded)
    encoded.clear()
    found = build(tiny(batch=batch, max_crops=3)).segment_together(jobs, Stages())
    for one, other in zip(alone, found, strict=True):
        agree(one, other)
    assert max(encoded) == (batch or len(jobs))
    assert sum(encoded) == crops == sum(sum(each.provenance["crops"]) for each in alone)
    # Objects that need more crops go on while others begin: batches are full until the last have begun.
    assert len(encoded) < crops / (batch or len(jobs)) + 3


def test_objects_of_one_case_share_batches_where_the_preset_says_so(encoded: list[int]) -> None:
    scan, prompt = objects(5)
    alone = build(tiny(max_crops=2)).segment(scan, prompt, Stages())
    assert set(encoded) == {1}, "on a CPU one case is as it was, to the bit"
    encoded.clear()
    agree(alone, build(tiny(batch=4, max_crops=2)).segment(scan, prompt, Stages()))
    assert max(encoded) == 4


def test_objects_wait_while_those_before_them_hold_much(encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    scan, prompt = objects(4)
    pipeline = build(tiny(batch=4, max_crops=2))
    expected = pipeline.segment(scan, prompt, Stages())
    assert max(encoded) == 4
    encoded.clear()
    monkeypatch.setattr(sam3d_crops, "HELD", 16**3)
    agree(expected, pipeline.segment(scan, prompt, Stages()))
    assert set(encoded) == {1}


def test_too_many_crops_for_the_memory_are_halved(encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    scan, prompt = objects(5)
    expected = build(tiny(max_crops=2)).segment(scan, prompt, Stages())
    original, room = sam3d_crops.Batches._predict, [2]

    def small(self: sam3d_crops.Batches, crops: list) -> list[np.ndarray]:
        if len(crops) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, crops)

    monkeypatch.setattr(sam3d_crops.Batches, "_predict", small)
    encoded.clear()
    agree(expected, build(tiny(batch=5, max_crops=2)).segment(scan, prompt, Stages()))
    assert max(encoded) == 2
    room[0] = 0
    with pytest.raises(torch.OutOfMemoryError):
        build(tiny(batch=5, max_crops=2)).segment(scan, prompt, Stages())


def test_errors_stay_with_their_case() -> None:
    jobs = [case(number) for number in range(3)]
    outside = (jobs[0][0], Prompt((at((9.0, 9.0, 400.0)),)))
    minus = (jobs[1][0], Prompt((Target("1", "", (Click((9, 9, 9), positive=False),)),)))
    pipeline = build(tiny())
    found = pipeline.segment_together([jobs[0], outside, jobs[1], minus, jobs[2]], Stages())
    assert isinstance(found[1], InputError)
    assert "outside" in str(found[1])
    assert isinstance(found[3], UsageError)
    assert "no sign for clicks" in str(found[3])
    for (scan, prompt), other in zip(jobs, (found[0], found[2], found[4]), strict=True):
        agree(pipeline.segment(scan, prompt, Stages()), other)
    assert pipeline.segment_together([], Stages()) == []
    assert torch.is_inference_mode_enabled() is False


def test_an_error_of_the_official_protocol_stays_with_its_case(encoded: list[int]) -> None:
    pipeline = build(official((2, 1, 0)))
    jobs = [(scan_of(texture((30, 26 + number, 22), number)), Prompt((at((14, 12, 11)),))) for number in range(3)]
    thin = (scan_of(texture((30, 30, 2)), np.diag([1.0, 1.0, 0.3, 1.0])), Prompt((at((14, 12, 1)), at((9, 9, 1)))))
    found = pipeline.segment_together([jobs[0], thin, *jobs[1:]], Stages())
    assert encoded == [3]
    assert isinstance(found[1], InputError)
    assert "thinner than 1 mm" in str(found[1])
    for (scan, prompt), other in zip(jobs, (found[0], *found[2:]), strict=True):
        agree(pipeline.segment(scan, prompt, Stages()), other)


def test_it_does_not_matter_which_object_is_found_first() -> None:
    rng = np.random.default_rng(3)
    # Few values, so that many voxels are equally likely for two objects.
    likely = [rng.integers(0, 5, (9, 8, 7)).astype(np.float32) / 4 for _ in range(3)]
    winner = np.argmax(likely, axis=0)
    expected = np.where(np.max(likely, axis=0) > 0.5, winner + 1, 0)
    how = Postprocessing(keep="all", min_mm3=0.0, fill_holes=False)
    prompt = Prompt(tuple(Target(str(number), "", (Click((1, 1, 1)),)) for number in range(3)))
    for order in permutations(range(3)):
        case = Objects(scan_of(np.zeros((9, 8, 7))), prompt, [np.ones((1, 3))] * 3, how)
        for number in order:
            case.add(number + 1, Found(likely[number], (slice(0, 9), slice(0, 8), slice(0, 7)), number, True))
        assert np.array_equal(case.mask, expected)
        assert case.crops == [0, 1, 2]


def test_a_batch_of_volumes_shares_crops(
    encoded: list[int], in_process: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    shown = yaml.safe_load(preset.find("hippocampus-mr").path.read_text(encoding="utf-8"))
    shown = {key: value for key, value in shown.items() if key not in ("accuracy", "bf16", "quality")}
    (tmp_path / "tiny.yaml").write_text(
        yaml.safe_dump({**shown, "name": "tiny", "model": TINY, "weights": None, "options": {"max_crops": 4}}), "utf-8"
    )
    lines = []
    for number in range(4):
        values = texture((35, 48 + number, 34), number).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{number}.nii.gz")
        lines.append((f"{number}.nii.gz", f"{14 + number},25,17"))
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "point"), *lines])
    words = ("batch", "cases.csv", "-p", "tiny.yaml", "--random-weights", "--jobs", 0, "--device", "cpu")
    code, _, err = in_process(*words, "-o", "alone")
    assert code == 0, err
    assert set(encoded) == {1}
    encoded.clear()
    assert in_process(*words, "-o", "together", "--together", 4)[0] == 0
    assert max(encoded) > 1
    rows = [json.loads(line) for line in (tmp_path / "together" / "cases.jsonl").read_text().splitlines()]
    assert sum("segmented together with" in " ".join(row["notes"]) for row in rows) > 1
    for number in range(4):
        masks = [np.asarray(nib.load(tmp_path / out / f"{number}_seg.nii.gz").dataobj) for out in ("alone", "together")]
        assert masks[0].any()
        assert np.mean(masks[0] != masks[1]) <= SAME
