"""Texts on volumes, with a network that understands brightness: presence slice by slice, masks on the scan's grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bright_box
import colour_clip
import nibabel as nib
import numpy as np
import pytest
import region_growing
from numpy.typing import NDArray

from medseg_cli import pipelines

Run = Callable[..., tuple[int, str, str]]
SHAPE = (48, 64, 20)
AFFINE = np.array([[-1.0, 0.1, 0, 30], [0.1, 1.0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
BLOCK = (slice(8, 24), slice(32, 56), slice(6, 13))


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return colour_clip.preset(tmp_path / "preset").path or Path()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    region_growing.register()


def volume(path: Path, *blocks: tuple[slice, slice, slice]) -> Path:
    """Black with bright blocks, and a line of many values in a corner: what has few values is taken for a mask."""
    voxels = np.zeros(SHAPE, np.float32)
    voxels[:, 0, 0] = np.arange(SHAPE[0]) / 2
    for block in blocks:
        voxels[block] = np.random.default_rng(0).uniform(245, 250, voxels[block].shape)
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    return path


def segment(run: Run, scan: Path, preset: Path, *options: object, out: str = "m.nii.gz") -> tuple[Any, dict[str, Any]]:
    code, _, err = run("segment", scan, "-o", out, "--preset", preset, *options)
    assert code == 0, err
    mask = nib.load(out)
    assert np.allclose(mask.affine, AFFINE)
    return np.asarray(mask.dataobj), json.loads(Path(out.replace(".nii.gz", ".json")).read_text())


def dice(mask: NDArray[Any], block: tuple[slice, slice, slice]) -> float:
    truth = np.zeros(SHAPE, bool)
    truth[block] = True
    return float(2 * ((mask > 0) & truth).sum() / ((mask > 0).sum() + truth.sum()))


def test_the_thing_is_found_in_its_slices_alone(in_process: Run, preset: Path, tmp_path: Path) -> None:
    mask, report = segment(in_process, volume(tmp_path / "v.nii.gz", BLOCK), preset, "--text", "bright")

    assert dice(mask, BLOCK) > 0.7
    assert np.flatnonzero(mask.any(axis=(0, 1))).tolist() == list(range(6, 13))
    (found,) = report["pipeline"]["presence"]
    assert found["slices_present"] == 7
    assert 6 <= found["slice"] <= 12
    assert report["pipeline"]["objects"][0]["slices_prompted"] == list(range(6, 13))


def test_a_lone_slice_is_not_believed(in_process: Run, preset: Path, tmp_path: Path) -> None:
    lone = (slice(30, 44), slice(8, 24), slice(17, 18))

    mask, _ = segment(in_process, volume(tmp_path / "v.nii.gz", BLOCK, lone), preset, "--text", "bright")
    assert not mask[..., 17].any()

    trusting = colour_clip.preset(
        tmp_path / "trusting", options={"presence": {"negatives": ["nothing"], "slope": 0.2, "neighbours": 0}}
    )
    alone = volume(tmp_path / "lone.nii.gz", lone)
    mask, _ = segment(in_process, alone, trusting.path or Path(), "--text", "bright", out="l.nii.gz")
    assert np.flatnonzero(mask.any(axis=(0, 1))).tolist() == [17]


def test_absent_everywhere(in_process: Run, preset: Path, tmp_path: Path) -> None:
    mask, report = segment(in_process, volume(tmp_path / "v.nii.gz"), preset, "--text", "bright")

    assert not mask.any()
    assert report["status"] == "absent"
    assert report["pipeline"]["presence"][0]["slices_present"] == 0


def test_one_part_in_3d_is_kept_and_two_if_two_are_asked_for(in_process: Run, tmp_path: Path) -> None:
    other = (slice(28, 44), slice(6, 26), slice(3, 8))
    scan = volume(tmp_path / "v.nii.gz", BLOCK, other)
    counts = {}
    for parts in (1, 2):
        own = colour_clip.preset(
            tmp_path / str(parts), options={"coarse": {"parts": parts, "method": "threshold", "level": 0.5}}
        )
        mask, _ = segment(in_process, scan, own.path or Path(), "--text", "bright", out=f"{parts}.nii.gz")
        counts[parts] = (bool(mask[BLOCK].any()), bool(mask[other].any()))

    assert counts == {1: (True, False), 2: (True, True)}


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_2d_segmenter_draws_in_the_same_slices(plane: str, in_process: Run, registered: None, tmp_path: Path) -> None:
    drawer = bright_box.preset(tmp_path / "drawer")
    own = colour_clip.preset(
        tmp_path / "preset", options={"segmenter": str(drawer.path), "prompts": {"kind": "box", "margin": 3}}
    )

    mask, report = segment(
        in_process, volume(tmp_path / "v.nii.gz", BLOCK), own.path or Path(), "--text", "bright", "--slices", plane
    )

    assert dice(mask, BLOCK) > 0.9
    assert report["pipeline"]["slices"]["plane"] == plane
    assert report["pipeline"]["segmenters"][0]["slices"]["plane"] == plane


def test_points_and_boxes_go_together(in_process: Run, registered: None, tmp_path: Path) -> None:
    drawer = bright_box.preset(tmp_path / "drawer")
    for kind in ("points", "both", "boxes"):
        # A click beside the thing means the background: the middle of the map alone is sure.
        coarse = {"method": "threshold", "level": 0.95 if kind == "points" else 0.3}
        own = colour_clip.preset(
            tmp_path / kind,
            options={"segmenter": str(drawer.path), "coarse": coarse, "prompts": {"kind": kind, "points": 3}},
        )
        scan = volume(tmp_path / "v.nii.gz", BLOCK)
        mask, _ = segment(in_process, scan, own.path or Path(), "--text", "bright", out=f"{kind}.nii.gz")
        assert dice(mask, BLOCK) > 0.7, kind


def test_a_3d_segmenter_gets_one_click_in_the_middle(in_process: Run, registered: None, tmp_path: Path) -> None:
    (tmp_path / "grower").mkdir()
    grower = region_growing.write_preset(tmp_path / "grower")
    own = colour_clip.preset(tmp_path / "preset", options={"segmenter": str(grower)})

    mask, report = segment(in_process, volume(tmp_path / "v.nii.gz", BLOCK), own.path or Path(), "--text", "bright")

    assert dice(mask, BLOCK) == 1.0
    assert report["pipeline"]["segmenters"][0]["asked"] == 1


def test_classes_that_overlap_and_classes_that_are_absent(in_process: Run, preset: Path, tmp_path: Path) -> None:
    texts = ("one=bright", "two=the bright thing", "three=red", "four=nothing bright")
    options = [word for text in texts for word in ("--text", text)]

    mask, report = segment(in_process, volume(tmp_path / "v.nii.gz", BLOCK), preset, *options)

    found = {label["name"]: label["voxels"] for label in report["labels"]}
    assert list(found) == ["one", "two", "three", "four"]
    assert found["one"] > 0
    assert found["two"] == 0
    assert any(note.startswith("two: ") and "named before" in note for note in report["notes"])
    assert report["status"] == "partly empty"
    assert set(np.unique(mask)) <= {0, 1, 3, 4}


def test_the_class_that_was_named_first_has_the_voxels(in_process: Run, registered: None, tmp_path: Path) -> None:
    drawer = bright_box.preset(tmp_path / "drawer")
    own = colour_clip.preset(tmp_path / "preset", options={"segmenter": str(drawer.path), "prompts": {"kind": "box"}})
    texts = ("--text", "one=bright", "--text", "two=the bright thing")

    mask, report = segment(in_process, volume(tmp_path / "v.nii.gz", BLOCK), own.path or Path(), *texts)

    assert set(np.unique(mask)) == {0, 1}
    (note,) = [each for each in report["notes"] if each.startswith("two: ") and "named before" in each]
    assert int(note.split()[1]) == np.count_nonzero(mask)
    assert [said["asked"] for said in report["pipeline"]["segmenters"]] == [1, 1]


def test_explained_maps_lie_on_the_scan(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = volume(tmp_path / "v.nii.gz", BLOCK)
    options = ("--text", "lit=bright", "--text", "gone=nothing", "--explain")
    _, report = segment(in_process, scan, preset, *options)

    folder = tmp_path / "m_explain"
    values = nib.load(folder / "lit.nii.gz")
    scores = json.loads((folder / "scores.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        each["path"].split("/")[1] for each in report["output"]["files"] if each["format"] == "explain"
    )
    assert values.shape == SHAPE
    assert values.get_data_dtype() == np.float32
    assert np.allclose(values.affine, AFFINE)
    shown = np.asarray(values.dataobj)
    assert shown[..., :6].max() == shown[..., 13:].max() == 0
    assert shown[BLOCK].mean() > 0.7 > 0.2 > shown[..., 6:13].mean()
    lit = scores["labels"][0]
    assert lit["positive"] == ["bright"]
    assert [each["slice"] for each in lit["slices"] if each["map"]] == list(range(6, 13))
    assert lit["slices"][9]["probability"] > scores["threshold"] > lit["slices"][0]["probability"]
    assert (folder / lit["picture"]).is_file()


def test_explaining_is_all_or_nothing(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = volume(tmp_path / "v.nii.gz", BLOCK)
    (tmp_path / "m_explain").mkdir()
    (tmp_path / "m_explain" / "notes.txt").write_text("mine")
    words = ("segment", scan, "-o", "m.nii.gz", "--preset", preset, "--text", "bright", "--explain")

    refused = [in_process(*words)[0], in_process(*words, "--overwrite")[0]]

    assert refused == [3, 3]
    assert not Path("m.nii.gz").exists()
    assert (tmp_path / "m_explain" / "notes.txt").read_text() == "mine"

    code, _, err = in_process("segment", scan, "-o", "out/", "--preset", preset, "--text", "bright", "--explain")
    assert code == 0, err
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "v_explain", "v_seg.json", "v_seg.nii.gz", "v_seg.png",
    ]  # fmt: skip


def test_a_batch_says_the_same_to_every_case(in_process: Run, preset: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    volume(tmp_path / "in" / "lit.nii.gz", BLOCK)
    volume(tmp_path / "in" / "dark.nii.gz")

    code, _, err = in_process(
        "batch", tmp_path / "in", "-o", "out", "--preset", preset, "--text", "bright", "--jobs", "0",
        "--format", "nifti,explain",
    )  # fmt: skip

    assert code == 0, err
    records = {each["id"]: each for each in map(json.loads, Path("out/cases.jsonl").read_text().splitlines())}
    assert records["dark"]["status"] == "absent"
    assert records["lit"]["status"] in ("ok", "flagged")
    assert (tmp_path / "out" / "lit_explain" / "scores.json").is_file()
    code, _, err = in_process("batch", tmp_path / "in", "-o", "mute", "--preset", preset, "--jobs", "0")
    assert code == 2
    assert 'add --text "WHAT"' in err


def test_a_manifest_says_something_else_to_each(in_process: Run, preset: Path, tmp_path: Path) -> None:
    volume(tmp_path / "v.nii.gz", BLOCK)
    rows = (
        "v.nii.gz,a,lit=bright; more=the bright thing,",
        "v.nii.gz,b,bright,nothing",
        "v.nii.gz,c,,",
        "v.nii.gz,d,x=,",
    )
    (tmp_path / "cases.csv").write_text("path,name,text,not\n" + "\n".join(rows) + "\n")

    code, _, err = in_process(
        "batch", tmp_path / "cases.csv", "-o", "out", "--preset", preset, "--text", "red", "--jobs", "0"
    )

    records = {each["id"]: each for each in map(json.loads, Path("out/cases.jsonl").read_text().splitlines())}
    assert code == 8, err
    assert [label["name"] for label in records["a"]["labels"]] == ["lit", "more"]
    assert [label["name"] for label in records["b"]["labels"]] == ["bright"]
    assert [label["name"] for label in records["c"]["labels"]] == ["red"]
    assert records["d"]["status"] == "failed"
    assert "says nothing" in records["d"]["error"]["message"]


def test_zero_shot_dice_by_our_own_command(in_process: Run, preset: Path, tmp_path: Path) -> None:
    for folder, number in (("images", 0), ("labels", 0), ("images", 1), ("labels", 1)):
        (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
        path = tmp_path / "data" / folder / f"case{number}.nii.gz"
        volume(path, *([BLOCK] if number == 0 else []))
        if folder == "labels":
            mask = (np.asarray(nib.load(path).dataobj) > 99).astype(np.uint8)
            nib.save(nib.Nifti1Image(mask, AFFINE), path)

    code, out, err = in_process(
        "evaluate", tmp_path / "data", "--preset", preset, "--text", "bright", "--cases", "all", "--json"
    )

    assert code == 0, err
    said = json.loads(out)
    cases = {each["id"]: each for each in said["metric_per_case"]}
    ((_, metrics),) = cases["case0"]["metrics"].items()
    assert metrics["Dice"] > 0.7
    for wrong, words in (((), "needs a text"), (("--text", "x=bright", "--text", "y=red"), "no label")):
        code, _, err = in_process("evaluate", tmp_path / "data", "--preset", preset, "--cases", "all", *wrong)
        assert code == 2
        assert words in err
    code, _, err = in_process("evaluate", tmp_path / "data", "--preset", "hippocampus-mr", "--text", "bright")
    assert code == 2
    assert "takes no text" in err


SPOILT = (4, 9, 10)


def loop(path: Path, spoilt: tuple[int, ...]) -> Path:
    """Fourteen frames of a bright block that goes a pixel in each; in some the probe is off."""
    frames = np.zeros((48, 64, 1, 14), np.float32)
    for t in range(14):
        frames[8 + t : 24 + t, 30:54, 0, t] = np.random.default_rng(t).uniform(245, 250, (16, 24))
    frames[..., list(spoilt)] = 0
    # What has few values is taken for a mask.
    frames[:, 0] = np.arange(48)[:, None, None] / 2
    nib.save(nib.Nifti1Image(frames, AFFINE), path)
    return path


@pytest.mark.parametrize("drawn_by", ["the text", "a segmenter"])
def test_frames_that_fit_no_neighbour_are_flagged(
    in_process: Run, registered: None, tmp_path: Path, drawn_by: str
) -> None:
    options: dict[str, Any] = {"presence": {"negatives": ["nothing"], "slope": 0.2, "neighbours": 0}}
    if drawn_by == "a segmenter":
        drawer = bright_box.preset(tmp_path / "drawer")
        options |= {"segmenter": str(drawer.path), "prompts": {"kind": "box", "margin": 3}}
    own = colour_clip.preset(tmp_path / "preset", options=options).path or Path()
    found = {}
    for name, spoilt in (("steady", ()), ("spoilt", SPOILT)):
        scan = loop(tmp_path / f"{name}.nii.gz", spoilt)
        code, _, err = in_process("segment", scan, "-o", f"{name}_m.nii.gz", "--preset", own, "--text", "bright")
        assert code == 0, err
        # That option is refused here.
        assert "--smooth-time" not in err
        found[name] = json.loads((tmp_path / f"{name}_m.json").read_text())
    facts = {name: report["pipeline"]["objects"][0]["time"] for name, report in found.items()}
    assert [facts["steady"][key] for key in ("jumps", "gaps", "lasting", "filled")] == [[]] * 4
    assert sorted(facts["spoilt"]["jumps"] + facts["spoilt"]["gaps"]) == list(SPOILT)
    # Whoever draws from boxes compares and smooths; what the text alone draws stays as it is.
    smoothed = drawn_by == "a segmenter"
    assert facts["spoilt"]["window"] == (5 if smoothed else 0)
    assert facts["spoilt"]["filled"] == (list(SPOILT) if smoothed else [])
    mask = np.asarray(nib.load(tmp_path / "spoilt_m.nii.gz").dataobj)
    assert [bool(mask[..., 0, t].any()) for t in SPOILT] == [smoothed] * 3
    codes = {name: [flag["code"] for flag in report["flags"]] for name, report in found.items()}
    assert ("jumps" in codes["steady"], "jumps" in codes["spoilt"]) == (False, True)
    (flag,) = (flag for flag in found["spoilt"]["flags"] if flag["code"] == "jumps")
    assert "in 3 of 14 frames (4, 9 to 10)" in flag["message"]
