"""Several answers compared: the map, its numbers and its flag, held against answers that the test writes down."""

from __future__ import annotations

import csv
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from slice_phantom import SMALL, ellipsoid, painted, scan_of
from test_cc_sam import TINY, moved
from torch import Tensor, nn

from medseg_cli import device, pipelines
from medseg_cli import preset as presets
from medseg_cli.errors import UsageError
from medseg_cli.measure import measure
from medseg_cli.models.cc_sam.checkpoint import random_network
from medseg_cli.models.cc_sam.config import config_of
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.pipelines.by_slice import SlicePipeline
from medseg_cli.pipelines.maps import Maps
from medseg_cli.pipelines.slice_ensemble import SliceEnsemble
from medseg_cli.pipelines.slice_spread import Draws, SliceSpread
from medseg_cli.prompt import Box, Prompt, Target
from medseg_cli.quality import check
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.slices import plane_of
from medseg_cli.stages import Stages
from medseg_cli.writers.sidecar import sha256

SIZE = 40
Run = Callable[..., tuple[int, str, str]]


class Wavering(nn.Module):
    """Brightness is the logit, moved by what was drawn; it remembers the draws in the order in which it made them."""

    has_latents = True

    def __init__(self, offset: float = 0.0, steady: bool = False) -> None:
        super().__init__()
        self.size, self.mask_size, self.offset = SIZE, 16, offset
        self.has_latents = not steady
        self.unused = nn.Parameter(torch.zeros(1))
        self.drawn: list[list[float]] = []

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": 8 * (images.mean(1) - 0.5) + self.offset}

    def encodings(self, images: Tensor, noises: Any) -> Iterator[dict[str, Tensor]]:
        for noise in noises:
            moves = [float(torch.randn(1, generator=each)) for each in noise]
            self.drawn.append(moves)
            yield {"logits": self.encode(images)["logits"] + torch.tensor(moves)[:, None, None]}

    def decode(self, embedding: dict[str, Tensor], boxes: Tensor, **others: Tensor | None) -> tuple[Tensor, None]:
        assert len(embedding["logits"]) == 1
        cut = torch.full((len(boxes), SIZE, SIZE), -8.0)
        for number, (x0, y0, x1, y1) in enumerate(boxes.round().int().tolist()):
            cut[number, y0:y1, x0:x1] = embedding["logits"][0, y0:y1, x0:x1]
        return cut, None


class WaveringPipeline:
    """Door of the pipeline."""

    @classmethod
    def from_preset(cls, preset: presets.Preset, runtime: device.Runtime, random_weights: bool) -> SlicePipeline:
        return SlicePipeline.from_preset(preset, runtime, random_weights, lambda path, preset, seed: Wavering())


@pytest.fixture(autouse=True)
def wavering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline is known during a test."""
    entry = pipelines.Entry("test_uncertainty:WaveringPipeline", "", frozenset({"box"}), 2, latents=True)
    monkeypatch.setattr(pipelines, "PIPELINES", {**pipelines.PIPELINES, "wavering": entry})


def preset_of(folder: Path, quality: dict[str, Any] | None = None, **options: Any) -> presets.Preset:
    save_file({"none": torch.zeros(1)}, folder / "none.safetensors")
    facts = {
        "name": "wavering", "title": "t", "pipeline": "wavering", "modality": ["any"], "dims": 2, "model": {},
        "weights": {"file": "none.safetensors", "sha256": sha256(folder / "none.safetensors")},
        "preprocessing": {"intensity": {"method": "percentile", "low": 0, "high": 100}},
        "prompts": {"kinds": ["box"]}, "labels": [{"value": 1, "name": "blob", "color": "#e63c3c"}],
        "licence": "CC0-1.0", "source": "here", "options": {"scale": "byte", "memory_mb": 0} | options,
    }  # fmt: skip
    (folder / "wavering.yaml").write_text(yaml.safe_dump(facts | ({"quality": quality} if quality else {})))
    return presets.load(folder / "wavering.yaml")


def segment(preset: presets.Preset, scan: Scan, *boxes: Box, seed: int = 0) -> tuple[Segmentation, Wavering]:
    pipeline = pipelines.build(preset, device.select("cpu", seed=seed))
    targets = tuple(Target(str(number), "", boxes=(box,)) for number, box in enumerate(boxes, start=1))
    return pipeline.segment(scan, Prompt(targets), Stages()), pipeline.model


def square() -> Scan:
    """40 x 40 pixels (i, j), brighter from left to right, with some noise; a pixel of the frame is one of the scan."""
    values = np.linspace(0, 255, SIZE)[:, None, None] + np.random.default_rng(1).uniform(-9, 9, (SIZE, SIZE, 1))
    values[0, 0], values[-1, -1] = 0, 255
    return scan_of(values.clip(0, 255).round(), spacing=(1.0, 1.0, 1.0))


def whole(scan: Scan, k: int = 0) -> Box:
    return Box((0.0, 0.0, float(k)), (scan.shape[0] - 1.0, scan.shape[1] - 1.0, float(k)))


def expected(scan: Scan, moves: list[float]) -> np.ndarray:
    """Probabilities (N, I, J) of a slice by the network's one formula."""
    logits = 8 * (scan.voxels[0, :, :, 0].astype(np.float64) / 255 - 0.5)
    return 1 / (1 + np.exp(-(logits[None] + np.array(moves)[:, None, None])))


def test_the_map_is_the_standard_deviation_of_the_answers(tmp_path: Path) -> None:
    scan = square()
    result, network = segment(preset_of(tmp_path, uncertainty=True, samples=7), scan, whole(scan))
    moves = [each for (each,) in network.drawn]
    assert len(moves) == len(set(moves)) == 7
    answers = expected(scan, moves)
    assert result.spread is not None
    found = result.spread.maps[1]
    assert found.shape == scan.shape
    assert found.dtype == np.float32
    assert np.allclose(found[:, :, 0], answers.std(0), atol=1e-5)
    assert 0.1 < found.max() <= 0.5
    mask = result.mask[:, :, 0] > 0
    assert np.array_equal(mask, expected(scan, [0.0])[0] > 0.5)
    dice = [2 * (mask & (each > 0.5)).sum() / (mask.sum() + (each > 0.5).sum()) for each in answers]
    sizes = (answers > 0.5).sum((1, 2))
    assert result.spread.scores[1] == {
        "agreement": {"mean": pytest.approx(np.mean(dice), abs=1e-6), "least": pytest.approx(min(dice), abs=1e-6)},
        "mean_voxels": pytest.approx(sizes.mean(), abs=1e-3),
        "sd_voxels": pytest.approx(sizes.std(), abs=1e-3),
        "variation": pytest.approx(sizes.std() / sizes.mean(), abs=1e-6),
        "sd_inside": pytest.approx(answers.std(0)[mask].mean(), abs=1e-5),
        "sd_most": pytest.approx(answers.std(0).max(), abs=1e-5),
        "slice": 0,
    }
    assert (result.spread.of, result.spread.answers) == ("draws of the latents", 7)
    assert result.spread.pictures[1].shape == (*scan.shape[:2][::-1], 3)


def test_asking_changes_no_mask_and_nothing_else_that_is_told(tmp_path: Path) -> None:
    scan = square()
    (plain, _), (asked, _) = (
        segment(preset_of(tmp_path, uncertainty=wanted), scan, whole(scan)) for wanted in (False, True)
    )
    assert plain.spread is None
    assert np.array_equal(plain.mask, asked.mask)
    assert plain.provenance == asked.provenance
    assert plain.notes == asked.notes


def test_the_seed_decides_and_more_samples_continue_the_series(tmp_path: Path) -> None:
    scan = square()
    runs = {
        (seed, samples): segment(preset_of(tmp_path, uncertainty=True, samples=samples), scan, whole(scan), seed=seed)
        for seed, samples in ((0, 4), (1, 4), (0, 6))
    }
    again, network = segment(preset_of(tmp_path, uncertainty=True, samples=4), scan, whole(scan))
    first = runs[0, 4]
    assert np.array_equal(again.spread.maps[1], first[0].spread.maps[1])
    assert again.spread.scores == first[0].spread.scores
    assert runs[0, 6][1].drawn[:4] == first[1].drawn == network.drawn
    assert runs[1, 4][1].drawn[0] != first[1].drawn[0]


def volume() -> tuple[Scan, np.ndarray]:
    truth = ellipsoid(SMALL, (20.3, 17.6, 14.5), (12.0, 10.0, 5.0))
    return scan_of(painted(truth), spacing=(1.0, 1.0, 3.0)), truth


@pytest.mark.parametrize("batch", [1, 3])
def test_slices_that_were_turned_down_have_no_map(tmp_path: Path, batch: int) -> None:
    """Followed from slice 14 to where the object ends; what lies beyond was looked at, and is no part of it."""
    scan, _ = volume()
    box = Box((4.0, 3.0, 14.0), (36.0, 32.0, 14.0))
    result, network = segment(preset_of(tmp_path, uncertainty=True, samples=3, batch=batch), scan, box)
    found = set(np.flatnonzero(result.mask.any((0, 1))).tolist())
    looked = result.provenance["slices"]["prompted"]
    assert 3 < len(found) < looked
    assert set(np.flatnonzero(result.spread.maps[1].any((0, 1))).tolist()) == found
    # Each slice has noise of its own, whatever batch it was encoded in.
    drawn = [moves for each in network.drawn for moves in each]
    assert len(set(drawn)) == len(drawn) == 3 * looked
    assert result.spread.scores[1]["slice"] in found


def test_a_batch_decides_nothing(tmp_path: Path) -> None:
    scan, _ = volume()
    box = Box((4.0, 3.0, 10.0), (36.0, 32.0, 18.0))
    maps = [
        segment(preset_of(tmp_path, uncertainty=True, samples=3, batch=batch), scan, box)[0].spread.maps[1]
        for batch in (1, 4)
    ]
    assert np.allclose(*maps, atol=1e-6)


def test_embeddings_of_a_plain_run_are_not_taken_for_drawn_ones(tmp_path: Path) -> None:
    scan, cache = square(), str(tmp_path / "cache")
    maps = []
    for wanted, seed in ((False, 0), (True, 0), (True, 0), (True, 1)):
        preset = preset_of(tmp_path, uncertainty=wanted, samples=3, embedding_cache=cache)
        result, _ = segment(preset, scan, whole(scan), seed=seed)
        maps.append((result.provenance["slices"]["from_cache"], result.spread and result.spread.maps[1]))
    assert [reused for reused, _ in maps] == [0, 0, 1, 0]
    assert np.array_equal(maps[1][1], maps[2][1])
    assert not np.array_equal(maps[1][1], maps[3][1])


def test_each_object_has_its_own_map_in_any_plane(tmp_path: Path) -> None:
    scan, _ = volume()
    boxes = (Box((20.0, 3.0, 6.0), (20.0, 16.0, 23.0)), Box((20.0, 20.0, 6.0), (20.0, 32.0, 23.0)))
    preset = preset_of(tmp_path, uncertainty=True, samples=3, slices="sagittal", propagate=False)
    result, _ = segment(preset, scan, *boxes)
    for value, (low, high) in ((1, (3, 16)), (2, (20, 32))):
        where = np.argwhere(result.spread.maps[value] > 0.01)
        assert set(where[:, 0]) == {20}
        # The frame has other pixels than the scan: its border is half a pixel wide.
        assert low - 1 <= where[:, 1].min() <= where[:, 1].max() <= high + 1
        assert result.spread.scores[value]["mean_voxels"] > 0


def test_checkpoints_are_compared_without_latents(tmp_path: Path) -> None:
    scan = square()
    preset = preset_of(tmp_path, uncertainty=True)
    pipeline = pipelines.build(preset, device.select("cpu"))
    model = SliceEnsemble([Wavering(offset, steady=True) for offset in (-1.0, 0.5, 2.0)])
    pipeline = replace(pipeline, model=model.requires_grad_(False))
    result = pipeline.segment(scan, Prompt((Target("1", "", boxes=(whole(scan),)),)), Stages())
    assert np.allclose(result.spread.maps[1][:, :, 0], expected(scan, [-1.0, 0.5, 2.0]).std(0), atol=1e-5)
    assert (result.spread.of, result.spread.answers) == ("checkpoints", 3)


def test_checkpoints_with_latents_are_drawn_each(tmp_path: Path) -> None:
    pipeline = pipelines.build(preset_of(tmp_path, uncertainty=True, samples=2), device.select("cpu"))
    members = [Wavering(-1.0), Wavering(2.0)]
    pipeline = replace(pipeline, model=SliceEnsemble(members).requires_grad_(False))
    result = pipeline.segment(square(), Prompt((Target("1", "", boxes=(whole(square()),)),)), Stages())
    moves = [each.offset + move for each in members for (move,) in each.drawn]
    assert len(moves) == result.spread.answers == 4
    assert np.allclose(result.spread.maps[1][:, :, 0], expected(square(), moves).std(0), atol=1e-5)


def test_no_answer_leaves_the_sector(tmp_path: Path) -> None:
    """The file says where the tissue is: beyond, the mask has nothing, and neither has any answer."""
    plain = square()
    origin = replace(plain.provenance, format="dicom")
    scan = replace(plain, provenance=origin, modality="US", position_known=False, region=(5, 8, 30, 33))
    results = [
        segment(
            preset_of(tmp_path, uncertainty=True, samples=samples, ultrasound={"overlays": False}), scan, whole(scan)
        )
        for samples in (2, 9)
    ]
    inside = np.zeros(scan.shape, bool)
    inside[5:31, 8:34] = True
    for result, network in results:
        spread = result.spread
        assert not spread.maps[1][~inside].any()
        assert np.allclose(
            spread.maps[1][inside].reshape(26, 26),
            expected(scan, [move for (move,) in network.drawn]).std(0)[5:31, 8:34],
            atol=1e-5,
        )
        sizes = [(each[5:31, 8:34] > 0.5).sum() for each in expected(scan, [move for (move,) in network.drawn])]
        assert spread.scores[1]["mean_voxels"] == pytest.approx(np.mean(sizes), abs=1e-3)
    # What was cut off is counted in the mask's own answer alone.
    assert results[0][0].provenance["ultrasound"] == results[1][0].provenance["ultrasound"]


def test_answers_are_not_kept() -> None:
    """While the fourth is made, the first two are gone: a large picture has room for few."""
    scan = scan_of(np.zeros((30, 20, 1)))
    plane = plane_of(scan, "finest")
    spread = SliceSpread.of(plane, 1, 0.0)
    made: list[weakref.ref[Tensor]] = []

    def answers() -> Iterator[Tensor]:
        for number in range(6):
            assert sum(each() is not None for each in made) <= 2
            with torch.inference_mode():
                logits = torch.full((plane.height, plane.width), float(number))
            made.append(weakref.ref(logits))
            yield logits

    spread.keep(0, 0, answers(), np.ones((plane.height, plane.width), bool))
    assert np.allclose(spread.maps.values[1], np.std(1 / (1 + np.exp(-np.arange(6.0)))), atol=1e-6)


def test_large_pictures_are_drawn_smaller() -> None:
    plane = plane_of(scan_of(np.zeros((4100, 10, 1))), "finest")
    maps = Maps.of(plane, 1)
    shape = (plane.height, plane.width, 3)
    assert max(maps.over(1, 0, np.zeros(shape, np.uint8)).shape) == -(-4100 // 3)


def test_little_agreement_is_flagged_where_the_preset_has_a_limit(tmp_path: Path) -> None:
    scan = square()
    limited = preset_of(tmp_path, {"agreement": 0.99}, uncertainty=True, samples=4)
    result, _ = segment(limited, scan, whole(scan))
    agreed = result.spread.scores[1]["agreement"]["mean"]
    (flag,) = (each for each in check(result, measure(result), limited) if each.code == "agreement")
    assert (flag.value, flag.limit, flag.label) == (agreed, (0.99, None), 1)
    assert f"4 draws of the latents agree with the mask to Dice {agreed:.3f}" in flag.message
    for lax in (preset_of(tmp_path, {"agreement": agreed - 0.01}), preset_of(tmp_path)):
        assert "agreement" not in {each.code for each in check(result, measure(result), lax)}
    plain = replace(result, spread=None)
    assert "agreement" not in {each.code for each in check(plain, measure(plain), limited)}


def test_more_draws_than_anybody_waits_for_are_refused(in_process: Callable[..., tuple[int, str, str]]) -> None:
    for wanted in (1, 1001, 10**21):
        code, _, said = in_process(
            "segment", "no.png", "-o", "m.png", "-p", "sam-vit-b", "--uncertainty", "--samples", wanted
        )
        assert (code, "'--samples'" in said) == (2, True), said


@pytest.mark.parametrize(
    ("name", "chosen", "words"),
    [
        ("hippocampus-mr", {"uncertainty": True}, "has one answer only"),
        ("sam-vit-b", {"uncertainty": True}, "has one answer only"),
        ("medclip-sam", {"uncertainty": True}, "has one answer only"),
        ("sam-vit-b", {"samples": 4}, "--samples says how often --uncertainty draws"),
    ],
)
def test_one_answer_cannot_be_compared(name: str, chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_options(presets.find(name), Overrides(**chosen))


# CC-SAM, on the command line


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset of a small CC-SAM whose fusion has left its starting point, and a picture of 90 x 60 pixels."""
    folder = tmp_path_factory.mktemp("tiny")
    network = moved(random_network(config_of(TINY), 0))
    save_file(network.state_dict(), folder / "tiny.safetensors")
    facts = {
        "name": "tiny-us", "title": "t", "pipeline": "cc-sam", "modality": ["US"], "dims": 2, "model": TINY,
        "weights": {"file": "tiny.safetensors", "sha256": sha256(folder / "tiny.safetensors")},
        "preprocessing": {"intensity": {"method": "eight-bit"}},
        "prompts": {"kinds": ["point", "box", "mask", "text"], "whole_image": True},
        "labels": [{"value": 1, "name": "head", "color": "#e63c3c"}],
        "licence": "CC0-1.0", "source": "here", "quality": {"agreement": 0.999999},
        "options": {"fit": "stretch", "scale": "byte"},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(facts))
    steady = {**TINY, "fusion": "cross"}
    save_file(random_network(config_of(steady), 0).state_dict(), folder / "steady.safetensors")
    facts["weights"] = {"file": "steady.safetensors", "sha256": sha256(folder / "steady.safetensors")}
    (folder / "steady.yaml").write_text(yaml.safe_dump(facts | {"model": steady}))
    values = np.random.default_rng(0).integers(0, 255, (60, 90)).astype(np.uint8)
    (folder / "scans").mkdir()
    Image.fromarray(values).save(folder / "scans" / "head.png")
    return folder


def test_a_map_beside_the_mask(in_process: Run, tiny: Path, tmp_path: Path) -> None:
    scan = ["segment", tiny / "scans/head.png", "--preset", tiny / "tiny.yaml", "--box", "20,10,60,50"]
    common = [*scan, "--device", "cpu", "--overwrite"]
    code, _, said = in_process(*common, "-o", tmp_path / "m.png", "--uncertainty", "--samples", 4)
    assert code == 0, said
    report = json.loads((tmp_path / "m.json").read_text())
    spread = report["labels"][0]["spread"]
    assert (spread["answers"], spread["of"]) == (4, "draws of the latents")
    found = nib.load(tmp_path / "m_uncertainty" / "head.nii.gz")
    values = np.asarray(found.dataobj)
    assert values.shape[:2] == (90, 60)
    assert 0 < values.max() <= 0.5
    assert spread["sd_most"] == pytest.approx(float(values.max()), abs=1e-6)
    assert Image.open(tmp_path / "m_uncertainty" / "head.png").size == (90, 60)
    scores = json.loads((tmp_path / "m_uncertainty" / "scores.json").read_text())
    assert scores["labels"][0]["agreement"] == spread["agreement"]
    assert {each["format"] for each in report["output"]["files"]} == {"png", "uncertainty"}
    assert "head: 4 draws of the latents agree with the mask to Dice" in said
    assert f"± {spread['sd_voxels']:.3g} pixels" in said
    assert "look at it: head: 4 draws" in said
    first = values.tobytes()
    # The same again, by the format's name; the mask is the plain run's.
    code, _, said = in_process(*common, "-o", tmp_path / "m.png", "--format", "uncertainty", "--samples", 4)
    assert code == 0, said
    assert np.asarray(nib.load(tmp_path / "m_uncertainty" / "head.nii.gz").dataobj).tobytes() == first
    code, _, said = in_process(*common, "-o", tmp_path / "plain.png")
    assert code == 0, said
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "m.png").read_bytes()
    assert "spread" not in json.loads((tmp_path / "plain.json").read_text())["labels"][0]
    # A network without latents has nothing to draw.
    code, _, said = in_process(
        *common[:3], tiny / "steady.yaml", *common[4:], "-o", tmp_path / "s.png", "--uncertainty"
    )
    assert code == 2, said
    assert "tiny-us has one answer only" in said


def test_drawn_rows_do_not_depend_on_their_batch() -> None:
    network = moved(random_network(config_of(TINY), 0)).eval()
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    draws = Draws(2, 5)
    with torch.inference_mode():
        both = draws.encode(network, images, [3, 8])
        alone = draws.encode(network, images[1:], [8])
        plain = network.encode(images)["image"]
    assert list(both) == ["draw.0.image", "draw.1.image"]
    for name in both:
        assert torch.allclose(both[name][1:], alone[name], atol=1e-4)
        assert not torch.allclose(both[name], plain, atol=1e-3)
    assert not torch.allclose(both["draw.0.image"], both["draw.1.image"], atol=1e-3)


def test_draws_at_once_are_those_one_by_one_and_the_cnn_is_asked_once() -> None:
    network = moved(random_network(config_of(TINY), 0)).eval()
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    draws, asked = Draws(3, 5), []
    with torch.inference_mode():
        noises = ([draws.noise(index, each) for index in (3, 8)] for each in range(3))
        alone = [network.image_encoder(images, noise, sampled=True).image for noise in noises]
        network.image_encoder.cnn.register_forward_hook(lambda *_: asked.append(1))
        together = draws.encode(network, images, [3, 8])
    assert len(asked) == 1
    for number, expected in enumerate(alone):
        assert torch.equal(together[f"draw.{number}.image"], expected)


def test_a_batch_tells_it_in_records_tables_and_page(in_process: Run, tiny: Path, tmp_path: Path) -> None:
    code, _, said = in_process(
        "batch", tiny / "scans", "-o", tmp_path / "out", "--preset", tiny / "tiny.yaml", "--uncertainty",
        "--samples", 2, "--device", "cpu", "--jobs", 0,
    )  # fmt: skip
    assert code == 0, said
    (record,) = (json.loads(line) for line in (tmp_path / "out/cases.jsonl").read_text().splitlines())
    spread = record["labels"][0]["spread"]
    assert spread["answers"] == 2
    assert {each["kind"] for each in record["outputs"]} == {"png", "uncertainty", "report", "preview"}
    (row,) = csv.DictReader((tmp_path / "out/cases.csv").open())
    assert float(row["agreement head"]) == spread["agreement"]["mean"]
    assert row["flags"].split() == [each["code"] for each in record["flags"]]
    assert row["mask"] == "head_seg.png"
    assert row["mask_sha256"] == sha256(tmp_path / "out/head_seg.png")
    page = (tmp_path / "out/report.html").read_text()
    assert '"spread":{"answers":2' in page
