"""The embedded preset text-demo on real scans: what it finds, what it refuses, and what a wrong sentence does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from conftest import medseg_env
from model_card import check_card
from PIL import Image

from medseg_cli import device, pipelines, preset
from medseg_cli.datasets import Case, load_pair, read_cases, split_cases
from medseg_cli.prompt import Prompt, Target, Text
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan
from medseg_cli.stages import Stages

LUNGS, HEAD, HIPPOCAMPUS = "the lungs in a chest radiograph", "the fetal head", "hippocampus"
SETS = {"chest-xray-lungs": LUNGS, "fetal-head-us-half": HEAD, "hippocampus-mr": HIPPOCAMPUS}
UNKNOWN = "fetal-head-us"
"""Pictures that the segmenter of heads was not trained on either; what is held back of the other set it was."""
InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pipeline() -> pipelines.Pipeline:
    return pipelines.build(preset.find("text-demo"), device.select("cpu"))


@pytest.fixture(scope="module")
def held_back(shared: Path) -> dict[str, tuple[Case, ...]]:
    data = shared / "data"
    split = {name: split_cases(read_cases(data / name), seed=0).test for name in SETS}
    return {**split, UNKNOWN: read_cases(data / UNKNOWN)}


def drawn(pipeline: pipelines.Pipeline, scan: Scan, text: str) -> np.ndarray:
    return pipeline.segment(scan, Prompt((Target("1", "", text=Text((text,))),)), Stages()).mask > 0


def dices(pipeline: pipelines.Pipeline, cases: tuple[Case, ...], text: str) -> list[float]:
    found = []
    for case in cases:
        scan, labels = load_pair(case)
        mask = drawn(pipeline, scan, text)
        found.append(float(2 * (mask & (labels > 0)).sum() / (mask.sum() + (labels > 0).sum())))
    return found


def test_the_weights_are_small_and_their_figures_are_on_the_card() -> None:
    check_card("text-demo", 8_000_000)


def test_held_back_radiographs(pipeline: pipelines.Pipeline, held_back: dict[str, tuple[Case, ...]]) -> None:
    assert np.mean(dices(pipeline, held_back["chest-xray-lungs"][:6], LUNGS)) > 0.94


def test_held_back_heads(pipeline: pipelines.Pipeline, held_back: dict[str, tuple[Case, ...]]) -> None:
    """Of the first six two are said to be absent; a coarse mask would have a median of 0.6."""
    found = dices(pipeline, held_back[UNKNOWN][:6], HEAD)
    assert np.count_nonzero(found) >= 4
    assert np.median([dice for dice in found if dice]) > 0.92


def test_a_held_back_volume(pipeline: pipelines.Pipeline, held_back: dict[str, tuple[Case, ...]]) -> None:
    assert dices(pipeline, held_back["hippocampus-mr"][:1], HIPPOCAMPUS)[0] > 0.8


@pytest.mark.parametrize("text", list(SETS.values()))
def test_a_wrong_sentence_finds_nothing(
    pipeline: pipelines.Pipeline, held_back: dict[str, tuple[Case, ...]], text: str
) -> None:
    for name, right in SETS.items():
        if right != text:
            cases = held_back[name][: 1 if name == "hippocampus-mr" else 6]
            assert sum(drawn(pipeline, load_scan(case.image), text).any() for case in cases) == 0, name


def test_different_words_for_the_same_thing(
    pipeline: pipelines.Pipeline, held_back: dict[str, tuple[Case, ...]]
) -> None:
    case = held_back["chest-xray-lungs"][:1]
    for text in ("lungs", "left lung and right lung", "a radiograph of the lungs"):
        assert dices(pipeline, case, text)[0] > 0.9


def test_what_it_does_not_know_is_refused(
    in_process: InProcess, shared: Path, held_back: dict[str, tuple[Case, ...]], tmp_path: Path
) -> None:
    picture = held_back["chest-xray-lungs"][0].image
    unknown = ("the liver", "a brain tumour", "soft tissue and bone", "lungs beside the fetal head")
    for text in (*unknown, "the left lung", "right lung", "x" * 10_000):
        words = ("segment", picture, "-o", tmp_path / "m.png", "--preset", "text-demo", "--text", text)
        code, _, err = in_process(*words)
        assert code == 2, err
        assert "is not a concept of this model" in err
        assert "it knows: lungs, fetal head, hippocampus" in err
        assert len(err) < 2000


def test_the_command_of_the_readme(
    in_process: InProcess, held_back: dict[str, tuple[Case, ...]], tmp_path: Path
) -> None:
    words = ("-o", tmp_path / "m.png", "--preset", "text-demo", "--text", LUNGS, "--json")
    code, out, err = in_process("segment", held_back["fetal-head-us-half"][0].image, *words)
    assert code == 0, err
    report = json.loads(out)
    assert report["status"] == "absent"
    assert report["labels"][0]["name"] == "lungs"
    assert report["pipeline"]["presence"][0]["probability"] < 0.1


def test_the_scans_of_the_tables_are_held_back(
    pipeline: pipelines.Pipeline, held_back: dict[str, tuple[Case, ...]], root: Path, shared: Path
) -> None:
    sys.path.insert(0, str(root / "examples"))
    try:
        import text_cases
    finally:
        sys.path.pop(0)
    drawn_in = ("chest-xray-lungs", "hippocampus-mr", UNKNOWN)
    seen = [each for each in text_cases.shown(shared / "data", "test") if each.drawn is not None]
    assert {(each.source, each.id) for each in seen} == {(n, case.id) for n in drawn_in for case in held_back[n]}
    assert set(text_cases.CONCEPTS) == {each.name for each in pipeline.options.concepts}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_presence_is_what_its_command_prints(root: Path, shared: Path, medseg_home: Path) -> None:
    words = [sys.executable, "examples/calibrate_presence.py", "text-demo", str(shared / "data")]
    env = medseg_env(medseg_home, {})
    done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fitted = yaml.safe_load(done.stdout)
    stated = preset.find("text-demo").options["presence"]
    assert fitted == {name: pytest.approx(stated[name], rel=0.02) for name in ("slope", "offset")}


def test_a_single_slice_keeps_the_coarse_mask_where_the_segmenter_wants_a_volume(
    shared: Path, in_process: InProcess, tmp_path: Path
) -> None:
    volume = nib.load(shared / "data/hippocampus-mr/imagesTr/hippocampus_001.nii.gz")
    values = np.asanyarray(volume.dataobj)[:, :, 17].astype(float)
    Image.fromarray((255 * values / values.max()).astype(np.uint8).T).save(tmp_path / "slice.png")

    words = ("segment", str(tmp_path / "slice.png"), "-o", str(tmp_path / "m.png"), "--preset", "text-demo")
    code, _, err = in_process(*words, "--text", "the hippocampus")

    report = json.loads((tmp_path / "m.json").read_text())
    assert code == 0, err
    assert report["status"] == "ok", report["notes"]
    assert any("hippocampus-mr segments volumes and this is one slice" in note for note in report["notes"])


def test_a_table_without_an_end_is_refused(in_process: InProcess, tmp_path: Path) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "x.png")

    code, _, err = in_process(
        "segment", str(tmp_path / "x.png"), "-o", str(tmp_path / "m.png"), "--preset", "text-demo",
        "--text-file", "/dev/zero",
    )  # fmt: skip

    assert code == 3
    assert "too many for texts" in err
