"""`medseg evaluate --protocol samus`: the official numbers and clicks, against the official code's own and by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import bright_box
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy.spatial.distance import cdist

from medseg_cli import pipelines
from medseg_cli import preset as presets
from medseg_cli.evaluation.samus_scores import from_frame, hd_rowwise, in_frame, samus_score
from medseg_cli.models.samus.checkpoint import random_network
from medseg_cli.models.samus.config import config_of
from medseg_cli.weights.store import sha256_of

Run = Callable[..., tuple[int, str, str]]


def disc(row: int, column: int, radius: int) -> np.ndarray:
    """A disc in 256 x 256."""
    rows, columns = np.mgrid[:256, :256]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 < radius**2)


def test_the_numbers_of_the_official_code(shared: Path) -> None:
    """Six pairs of masks that the official evaluation scored, empty ones among them."""
    pairs = torch.load(shared / "parity" / "samus_small.pt", weights_only=True)["metrics"]
    assert len(pairs) == 6
    for pair in pairs:
        found = samus_score(pair["pred"].numpy() > 0, pair["gt"].numpy() > 0)
        expected = pair["values"]
        mine = (found.dice, found.iou, found.accuracy, found.sensitivity, found.specificity)
        theirs = [expected[name] for name in ("dice", "iou", "acc", "se", "sp")]
        assert mine == pytest.approx(theirs, rel=1e-9)
        assert found.hd_rowwise == expected["hd_rowwise_manhattan"]


@pytest.mark.parametrize(("place", "rowwise"), [((180, 60), 0), ((60, 180), 39)])
def test_row_wise_hd_is_no_distance_between_outlines(place: tuple[int, int], rowwise: float) -> None:
    """The official package's answers for two discs 120 pixels apart: one below the other, and side by side."""
    one, other = disc(60, 60, 20), disc(*place, 20)
    found = samus_score(one, other)
    assert found.hd_rowwise == rowwise
    assert (found.hd, found.hd95) == (120, pytest.approx(120, abs=3))


def test_row_wise_hd_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    one, other = disc(100, 120, 40) ^ (rng.random((256, 256)) < 0.1), disc(108, 123, 44)
    rows = cdist(one.astype(float), other.astype(float), "cityblock")
    assert hd_rowwise(one, other) == hd_rowwise(other, one) == max(rows.min(0).max(), rows.min(1).max())


@pytest.mark.parametrize("shape", [(540, 800), (256, 256), (97, 31), (270, 405)])
def test_masks_come_into_the_frame_as_pillow_brings_them(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.4
    theirs = Image.fromarray(mask.astype(np.uint8)).resize((256, 256), Image.Resampling.NEAREST)
    assert np.array_equal(in_frame(mask), np.asarray(theirs) > 0)
    x, y = from_frame(0, 255, shape)
    assert (x, y) == pytest.approx((shape[1] / 512 - 0.5, shape[0] - shape[0] / 512 - 0.5))


@pytest.fixture
def preset(tmp_path: Path) -> Iterator[Path]:
    """The preset "what is as bright as the click", registered while the test runs."""
    bright_box.register()
    bright_box.preset(tmp_path / "preset", size=64)
    yield tmp_path / "preset" / "bright-box.yaml"
    del pipelines.PIPELINES["bright-box"]


@pytest.fixture
def heart(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Three pictures 64 x 48 in SAMUS's layout: with classes 1 and 2, with 1 alone, with neither; and their masks."""
    grey = {0: 30, 1: 120, 2: 220}
    masks = {name: np.zeros((48, 64), np.uint8) for name in ("both", "one", "none")}
    for name in ("both", "one"):
        masks[name][5:17, 5:20] = 1
    masks["both"][30:41, 35:50] = 2
    for name, mask in masks.items():
        image = np.vectorize(grey.get)(mask).astype(np.uint8)
        for kind, pixels in (("img", image), ("label", mask)):
            (tmp_path / "us" / "Heart" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "us" / "Heart" / kind / f"{name}.png")
    lists = tmp_path / "us" / "MainPatient"
    lists.mkdir()
    (lists / "test.txt").write_text("".join(f"Heart/{name}\n" for name in masks))
    (lists / "class.json").write_text('{"Heart": 3}')
    return tmp_path / "us", masks


def middle(mask: np.ndarray, value: int) -> tuple[float, float]:
    """xy of the official click of class `value`, on the picture's own pixels; written from the specification."""
    framed = np.asarray(Image.fromarray(mask).resize((256, 256), Image.Resampling.NEAREST))
    rows, columns = np.nonzero(framed == value) if (framed == value).any() else np.nonzero(framed != value)
    row, column = rows[len(rows) // 2], columns[len(columns) // 2]
    return (column + 0.5) / 4 - 0.5, (row + 0.5) * 48 / 256 - 0.5


def test_every_class_is_asked_for_in_every_picture(
    in_process: Run, preset: Path, heart: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    data, masks = heart
    here = ("evaluate", data, "--preset", preset, "--cases", "all", "--device", "cpu", "--objects", "apart")
    code, _, said = in_process(*here, "--protocol", "samus", "--prompt", "median-click", "-o", tmp_path / "report")
    assert code == 0, said
    report = json.loads((tmp_path / "report" / "summary.json").read_text())
    cases = {case["id"].split("_")[-1]: case for case in report["metric_per_case"]}
    for name, mask in masks.items():
        for label in "12":
            where = cases[name]["prompts"][label]["click_ijk"]
            assert where[:2] == pytest.approx(middle(mask, int(label))), (name, label)
    dice = {name: [case["metrics"][label]["samus_Dice"] for label in "12"] for name, case in cases.items()}
    # A click outside on the dark leaves what is not dark: the wrong class where there is one, rightly nothing else.
    assert dice["both"] == [1, 1]
    assert dice["none"] == [1, 1]
    assert dice["one"] == [1, pytest.approx(0, abs=1e-6)]
    table = report["samus_protocol"]["labels"]
    assert table["2"]["samus_Dice"] == {"mean": pytest.approx(2 / 3, abs=1e-6), "sd": pytest.approx(0.471405), "n": 3}
    assert table["1"]["frame_HD_px"] == {"mean": 0, "sd": 0, "n": 2}
    assert (report["protocol"], report["click_seed"]) == ("samus", None)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "hd rowwise" in page
    assert "not a distance between outlines" in page


def test_without_the_protocol_absent_classes_are_not_asked_for(
    in_process: Run, preset: Path, heart: tuple[Path, dict[str, np.ndarray]]
) -> None:
    data, masks = heart
    here = ("evaluate", data, "--preset", preset, "--cases", "all", "--device", "cpu", "--objects", "apart", "--json")
    code, out, _ = in_process(*here, "--prompt", "median-click")
    report = json.loads(out)
    assert code == 8
    assert [each["id"].split("_")[-1] for each in report["failed"]] == ["none"]
    both = next(case for case in report["metric_per_case"] if case["id"].endswith("_both"))
    pixels = np.argwhere(masks["both"] == 2)
    row, column = pixels[len(pixels) // 2]
    assert both["prompts"]["2"]["click_ijk"] == [column, row, 0]
    assert report["samus_protocol"] is None
    assert "hd_rowwise" not in both["metrics"]["1"]


def test_random_clicks_follow_the_seed_and_boxes_go_round_everything_absent(
    in_process: Run, preset: Path, heart: tuple[Path, dict[str, np.ndarray]]
) -> None:
    data, masks = heart
    here = ("evaluate", data, "--preset", preset, "--cases", "all", "--device", "cpu", "--objects", "apart", "--json")
    places = []
    for seed in (0, 0, 1):
        code, out, said = in_process(*here, "--protocol", "samus", "--prompt", "click", "--seed", seed)
        assert code == 0, said
        cases = {case["id"].split("_")[-1]: case for case in json.loads(out)["metric_per_case"]}
        places.append([case["prompts"][label]["click_ijk"] for case in cases.values() for label in "12"])
        i, j, _ = cases["both"]["prompts"]["2"]["click_ijk"]
        assert masks["both"][round(j), round(i)] == 2
        i, j, _ = cases["one"]["prompts"]["2"]["click_ijk"]
        assert masks["one"][round(j), round(i)] != 2
    assert places[0] == places[1] != places[2]
    code, out, said = in_process(*here, "--protocol", "samus", "--prompt", "box")
    assert code == 0, said
    one = next(case for case in json.loads(out)["metric_per_case"] if case["id"].endswith("_one"))
    assert one["prompts"]["2"]["box_ijk"] == [0, 0, 0, 63, 47, 0]
    assert one["prompts"]["1"]["box_ijk"] == [5, 5, 0, 19, 16, 0]


def test_masks_in_files_have_the_numbers_and_volumes_are_refused(in_process: Run, tmp_path: Path) -> None:
    one, other = disc(60, 60, 20), disc(180, 60, 20)
    for name, mask in (("mine", one), ("theirs", other)):
        Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    code, out, said = in_process("evaluate", "mine.png", "theirs.png", "--protocol", "samus", "--json")
    assert code == 0, said
    found = json.loads(out)["metric_per_case"][0]["metrics"]["1"]
    assert (found["hd_rowwise"], found["frame_HD_px"], found["HD_px"]) == (0, 120, 120)
    assert found["samus_Dice"] == pytest.approx(1e-5 / (one.sum() + other.sum() + 1e-5), abs=1e-6)
    assert found["Dice"] == 0
    import nibabel

    volume = np.zeros((8, 8, 4), np.uint8)
    volume[2:5, 2:5, 1:3] = 1
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii.gz")
    code, _, said = in_process("evaluate", "v.nii.gz", "v.nii.gz", "--protocol", "samus")
    assert code == 3
    assert "this is a volume of (8, 8, 4)" in said


def test_classes_must_be_named(in_process: Run, preset: Path, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 2, np.uint8)).save(tmp_path / "set" / kind / "a.png")
    here = ("evaluate", "set", "--preset", preset, "--cases", "all", "--protocol", "samus", "--device", "cpu")
    code, _, said = in_process(*here, "--prompt", "click", "--objects", "apart")
    assert code == 2
    assert "does not name its classes" in said


def test_a_samus_is_measured_as_by_hand(in_process: Run, tmp_path: Path) -> None:
    """A picture that is the frame itself: network, click, threshold and Dice as the official test has them."""
    small = {
        "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "global_attn_indexes": [1], "prompt_dim": 32,
        "mask_in_chans": 4, "decoder_mlp_dim": 32, "iou_dim": 16,
    }  # fmt: skip
    network = random_network(config_of(small), 5).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = {"file": "w.safetensors", "sha256": sha256_of(tmp_path / "w.safetensors")}
    facts = presets.find("samus").model_dump(mode="json") | {"name": "tiny", "model": small, "weights": weights}
    facts["preprocessing"]["intensity"] = {"method": "eight-bit", "low": 0, "high": 100}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(facts))
    mask = disc(110, 140, 50)
    image = np.random.default_rng(0).integers(0, 256, mask.shape).astype(np.uint8)
    for kind, pixels in (("images", image), ("masks", (mask * 255).astype(np.uint8))):
        (tmp_path / "set" / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / kind / "a.png")
    code, out, said = in_process(
        "evaluate", "set", "--preset", "tiny.yaml", "--cases", "all", "--prompt", "median-click", "--protocol", "samus",
        "--objects", "together", "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0, said
    rows, columns = np.nonzero(mask)
    click = torch.tensor([[[float(columns[len(columns) // 2]), float(rows[len(rows) // 2])]]])
    with torch.inference_mode():
        grey = torch.from_numpy(image)[None, None].float() / 255
        logits = network(grey, points=(click, torch.ones(1, 1)))["masks"][0, 0].numpy()
    found = logits > 0
    assert 0 < found.sum() < found.size
    expected = (2 * (found & mask).sum() + 1e-5) / (found.sum() + mask.sum() + 1e-5)
    metrics = json.loads(out)["metric_per_case"][0]["metrics"]["1"]
    assert metrics["samus_Dice"] == pytest.approx(expected, abs=1e-4)
