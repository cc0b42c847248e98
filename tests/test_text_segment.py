"""`medseg segment --text`, with a network whose answers are known: what is named is found where it is, or not at all.

Its figures are in `colour_clip`.
"""

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
import yaml
from numpy.typing import NDArray
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
BOUNDS = {"red": (slice(12, 36), slice(80, 112)), "green": (slice(60, 84), slice(16, 48))}
"""Rows and columns of what `scene` draws in each colour."""


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return colour_clip.preset(tmp_path / "preset").path or Path()


def preset_with(folder: Path, **changes: Any) -> Path:
    return colour_clip.preset(folder, **changes).path or Path()


def scene(path: Path, *colours: str, mode: str = "RGB") -> Path:
    """A black picture of 128 by 96 pixels with coloured rectangles."""
    picture = np.zeros((96, 128, 3), np.uint8)
    for colour in colours:
        picture[*BOUNDS[colour], list(colour_clip.COLOURS[colour]).index(1.0)] = 255
    Image.fromarray(picture).convert(mode).save(path)
    return path


def segment(run: Run, scan: Path, preset: Path, *options: str, out: str = "m.png") -> tuple[Any, dict[str, Any]]:
    code, _, err = run("segment", scan, "-o", out, "--preset", preset, *options)
    assert code == 0, err
    report = json.loads((Path(out).with_name(Path(out).name.split(".")[0] + ".json")).read_text())
    return np.array(Image.open(out)) if out.endswith(".png") else nib.load(out).get_fdata(), report


def dice(mask: NDArray[Any], bounds: tuple[slice, slice]) -> float:
    truth = np.zeros(mask.shape, bool)
    truth[bounds] = True
    return float(2 * ((mask > 0) & truth).sum() / ((mask > 0).sum() + truth.sum()))


def test_what_is_named_is_found_where_it_is(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red", "green")

    mask, report = segment(in_process, scan, preset, "--text", "one=the red thing", "--text", "two=green", "--ml")

    assert dice(mask == 1, BOUNDS["red"]) > 0.75
    assert dice(mask == 2, BOUNDS["green"]) > 0.75
    assert report["status"] == "ok"
    assert [label["name"] for label in report["labels"]] == ["one", "two"]
    assert report["prompts"][0]["text"] == {"positive": ["the red thing"], "negative": []}
    assert all(each["present"] for each in report["pipeline"]["presence"])


def test_what_is_not_there_is_said_to_be_absent(in_process: Run, preset: Path, tmp_path: Path) -> None:
    mask, report = segment(in_process, scene(tmp_path / "scan.png", "red"), preset, "--text", "blue")

    assert not mask.any()
    assert report["status"] == "absent"
    (found,) = report["pipeline"]["presence"]
    assert found["probability"] < found["threshold"]
    assert not found["present"]
    assert any("was not found" in note for note in report["notes"])
    assert [flag["code"] for flag in report["flags"]] == ["presence"]
    code, _, err = in_process("segment", "scan.png", "-o", "n.png", "--preset", preset, "--text", "blue")
    assert code == 0
    assert "ABSENT: blue is not there" in err
    assert "EMPTY:" not in err


def test_one_of_two_may_be_absent(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red")

    mask, report = segment(in_process, scan, preset, "--text", "a=red", "--text", "b=blue", "--ml")

    assert set(np.unique(mask)) == {0, 1}
    assert report["status"] == "partly empty"
    assert [each["present"] for each in report["pipeline"]["presence"]] == [True, False]


def test_without_presence_something_is_always_drawn(in_process: Run, tmp_path: Path) -> None:
    published = preset_with(tmp_path / "preset", options={"presence": None, "saliency": {"method": "m2ib", "layer": 1}})

    mask, report = segment(in_process, scene(tmp_path / "scan.png", "red"), published, "--text", "blue")

    assert mask.any()
    assert report["pipeline"]["presence"] is None


@pytest.mark.parametrize("method", ["gscorecam", "gradcam", "windows"])
def test_every_map_leads_to_the_thing(method: str, in_process: Run, tmp_path: Path) -> None:
    own = preset_with(tmp_path / "preset", options={"saliency": {"method": method, "layer": 1}})

    mask, _ = segment(in_process, scene(tmp_path / "scan.png", "red"), own, "--text", "red")

    assert dice(mask, BOUNDS["red"]) > 0.35


def test_the_official_geometry_displaces_the_mask(in_process: Run, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "green")
    options = {"presence": None, "saliency": {"method": "gradcam", "layer": 1, "geometry": "official"}}
    official = preset_with(tmp_path / "official", options=options)
    aware = preset_with(
        tmp_path / "aware", options={"saliency": {"method": "gradcam", "layer": 1, "geometry": "crop-aware"}}
    )

    there, _ = segment(in_process, scan, official, "--text", "green", out="a.png")
    right, _ = segment(in_process, scan, aware, "--text", "green", out="b.png")

    # The middle square of 96 pixels begins at column 16, and is stretched over 128.
    columns = np.flatnonzero(there.any(axis=0))
    assert columns.mean() == pytest.approx((32 - 0.5 - 16) * 128 / 96, abs=4)
    assert dice(right, BOUNDS["green"]) > 0.75


def test_what_it_is_not_counts_against_it(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red", "green")
    _, alone = segment(in_process, scan, preset, "--text", "x=red", out="a.png")
    _, denied = segment(in_process, scan, preset, "--text", "x=red", "--not", "x=bright", out="b.png")
    table = tmp_path / "texts.yaml"
    table.write_text(yaml.safe_dump({"x": {"positive": ["red"], "negative": "bright"}}))
    _, listed = segment(in_process, scan, preset, "--text-file", str(table), out="c.png")

    margins = [each["pipeline"]["presence"][0]["margin"] for each in (alone, denied, listed)]
    # Features of the picture are red = green = r: cosine r with "red", 2r / sqrt(3) with "bright".
    assert margins[1] < 0 < margins[0]
    assert margins[1] == margins[2]
    assert denied["status"] == "absent"


def test_phrasings_count_as_their_mean(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red")
    _, both = segment(in_process, scan, preset, "--text", "x=red", "--text", "x=green", out="a.png")
    _, one = segment(in_process, scan, preset, "--text", "x=red", out="b.png")

    cosines = [each["pipeline"]["presence"][0]["margin"] for each in (both, one)]
    (nothing,) = {_nothing(both), _nothing(one)}
    assert cosines[0] + nothing == pytest.approx((cosines[1] + nothing) / np.sqrt(2), abs=1e-2)


def _nothing(report: dict[str, Any]) -> float:
    """What the margin was taken off: 100 times the cosine of a black picture with one red part and "nothing"."""
    features = colour_clip.network().encode_image(_square("red"))[0]
    return round(100 * float(features[3] / features.norm()), 3)


def _square(colour: str) -> Any:
    from medseg_cli.models.clip.maps import square

    picture = np.zeros((96, 128, 3), np.uint8)
    picture[*BOUNDS[colour], 0] = 255
    return square(picture, 64, "squash")[None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--text", ""], "says nothing"),
        (["--text", "  "], "says nothing"),
        (["--text", "\u200b"], "says nothing"),
        (["--text", "?!"], "says nothing"),
        (["--text", "lungs="], "says nothing"),
        (["--text", "=the lungs"], "no name before the ="),
        (["--text", "!?=the lungs"], "is no name of a class"),
        (["--text", "x" * 65 + "=the lungs"], "is no name of a class"),
        (["--text", "red", "--text", "red"], "is there twice"),
        (["--text", "red", "--not", "b=green"], "says what b is not"),
        (["--text", "red", "--not", "red"], "what is meant, and what is not"),
        (["--not", "green"], "there is no text"),
        (["--text", "red", "--point", "3,4"], "--text does not go with --point"),
        (["--text", "red", "--box", "3,4,5,6"], "--text does not go with --box"),
        (["--text", "red", "--label", "x"], "--text does not go with --label"),
        (["--text", "red", "--slice", "3"], "there is no such prompt"),
        ([], "needs a prompt"),
        (["--point", "3,4"], "takes no clicks"),
    ],
)
def test_wrong_words_are_refused_before_the_work(
    options: list[str], words: str, in_process: Run, preset: Path, tmp_path: Path
) -> None:
    scan = scene(tmp_path / "scan.png", "red")

    code, _, err = in_process("segment", scan, "-o", "m.png", "--preset", preset, *options)

    assert code == 2
    assert words in err
    assert not Path("m.png").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no classes"),
        ("[red]", "names no classes"),
        ("x: []", "has no text"),
        ("x: ''", "has no text"),
        ("x: {a: red}", "known are positive and negative"),
        ("x: [red, 3]", "no text"),
        ("x: [{a: b}]", "no text"),
        ("true: red", "no name"),
        ("x: [red", "no YAML"),
        ("x: !!python/object/apply:os.system [ls]", "no YAML"),
        ("x: red\nx: green", "no YAML: key 'x' is given twice"),
        ("x: 2024-99-99", "no YAML"),
        ("x: &a [red]\ny: *a", "aliases"),
    ],
)
def test_tables_of_texts_that_are_none(text: str, words: str, in_process: Run, preset: Path, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(text)

    code, _, err = in_process(
        "segment", scene(tmp_path / "s.png"), "-o", "m.png", "--preset", preset, "--text-file", tmp_path / "t.yaml"
    )

    assert code == 3
    assert words in err


def test_a_preset_that_takes_no_text_says_so(in_process: Run, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red", mode="L")

    for options in (["--text", "red"], ["--explain", "--box", "1,1,9,9"]):
        code, _, err = in_process("segment", scan, "-o", "m.png", "--preset", "chest-xray-lungs", *options)
        assert code == 2
        assert "takes no text" in err


def test_a_long_text_is_cut_and_said_to_be(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red")

    mask, report = segment(in_process, scan, preset, "--text", "the red thing " + "very " * 2000)

    assert mask.any()
    (note,) = [each for each in report["notes"] if "longer than the network reads" in each]
    # 10 000 characters are 3 words, 1997 more and a letter; [CLS], 14 words and [SEP] are read.
    assert "last 1987 tokens" in note
    assert len(report["labels"][0]["name"]) <= 64


def test_letters_of_the_world(in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red")

    _, report = segment(in_process, scan, preset, "--text", "Tumör ß=röntgen 肺 \U0001fac1 red")

    assert report["labels"][0]["name"] == "Tumör ß"


@pytest.mark.parametrize(
    "text", ["[red] thing", "red [/] x", "red\x1b[31m\nthing", "red" + "\u202e" + " thing", "../red/x"]
)
def test_texts_that_are_no_names_break_nothing(text: str, in_process: Run, preset: Path, tmp_path: Path) -> None:
    scan = scene(tmp_path / "scan.png", "red")

    mask, report = segment(in_process, scan, preset, "--text", text, "--explain")

    assert mask.any()
    (name,) = (each["name"] for each in report["labels"])
    assert "\n" not in name
    assert "\x1b" not in name
    (made,) = (path.name for path in (tmp_path / "m_explain").glob("*.nii.gz"))
    assert "/" not in made


def test_missing_weights_name_the_command(in_process: Run, tmp_path: Path) -> None:
    for name, command in (
        ("medclip-sam", "medseg weights pull biomedclip"),
        ("medclip-sam-v1", "medseg weights pull biomedclip"),
        ("medclip-sam-v2", "medseg weights import FILE --name medclip-sam-v2"),
    ):
        code, _, err = in_process(
            "segment", scene(tmp_path / "scan.png", "red"), "-o", "m.png", "--preset", name, "--text", "the lungs"
        )
        assert code == 4
        assert command in err


def test_the_segmenter_draws_from_boxes(in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg_cli import pipelines

    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    drawer = bright_box.preset(tmp_path / "drawer")
    own = preset_with(tmp_path / "preset", options={"segmenter": str(drawer.path), "prompts": {"margin": 6}})

    mask, report = segment(in_process, scene(tmp_path / "scan.png", "red", "green"), own, "--text", "red")

    assert dice(mask, BOUNDS["red"]) > 0.99
    (said,) = report["pipeline"]["segmenters"]
    assert said["asked"] == 1
    assert said["weights"]["sha256"]


def test_what_the_segmenter_sees_of_the_picture_limits_the_ellipse(
    in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disc of radius 40 of which the tissue ends 20 pixels right of the middle: a third of its border is hidden."""
    from medseg_cli import pipelines

    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    drawer = bright_box.preset(tmp_path / "drawer", size=256).path or Path()
    drawer.write_text(drawer.read_text() + "options: {ultrasound: {}}\n")
    round_one = [{"value": 1, "name": "disc", "color": "#f4d03f", "shape": "ellipse"}]
    options = {"segmenter": str(drawer), "prompts": {"margin": 20}}
    own = preset_with(tmp_path / "preset", options=options, labels=round_one)
    rows, columns = np.indices((256, 256))
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[..., 2] = np.random.default_rng(0).integers(30, 60, (256, 256))
    picture[(rows - 128) ** 2 + (columns - 130) ** 2 <= 40**2] = (255, 0, 0)
    picture[columns > 150] = 0
    Image.fromarray(picture).save(tmp_path / "scan.png")

    _, report = segment(in_process, tmp_path / "scan.png", own, "--text", "red")

    ellipse = report["labels"][0]["ellipse"]
    assert ellipse["circumference_px"] == pytest.approx(2 * np.pi * 40, rel=0.03)
    assert ellipse["seen"] == pytest.approx(2 / 3, abs=0.03)
