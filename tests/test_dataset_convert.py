"""`medseg dataset convert`: the same voxels, geometry, names and patients in another layout, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dataset_phantom import affine, drawn, labels, nifti, nnunet, picture, pictures, scan
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg_cli.datasets import Dataset, load_pair, read_cases, read_dataset
from medseg_cli.datasets.convert import convert
from medseg_cli.datasets.pairs import label_values, open_case
from medseg_cli.errors import InputError
from medseg_cli.readers.files import read_file

Run = Callable[..., tuple[int, str, str]]
LAYOUTS = ("nnunet", "msd", "monai", "folders", "csv")


def content(dataset: Dataset) -> dict[str, Any]:
    """Everything about the cases but their files' names and formats."""
    found = {}
    for case in dataset.cases:
        image, label = open_case(case, read_file)
        found[case.id] = {
            "image": (image.voxels.shape, image.voxels.tobytes()),
            "label": label_values(case, label).tobytes(),
            "affine": image.affine.tolist(),
            "group": case.patient,
            "facts": (case.part, case.fold, case.caption, case.spacing, case.modality, case.ignore),
        }
    return found


def test_to_nnunet(in_process: Run, tmp_path: Path) -> None:
    entries = []
    for number in range(3):
        nifti(tmp_path / "data" / f"a{number}.nii.gz", scan(number), affine(number))
        nifti(tmp_path / "data" / f"b{number}.nii.gz", labels(number), affine(number))
        entries.append(
            {"image": f"a{number}.nii.gz", "label": f"b{number}.nii.gz", "patient": "anna" if number else ""}
        )
    names = {"0": "background", "1": "liver", "2": "tumour"}
    (tmp_path / "data" / "dataset.json").write_text(
        json.dumps({"modality": {"0": "CT"}, "labels": names, "training": entries})
    )
    code, out, err = in_process("dataset", "convert", "data", "-o", "Dataset001_X", "--to", "nnunet")
    assert (code, out) == (0, "")
    assert "copy it there" in err
    made = tmp_path / "Dataset001_X"
    # The tree that nnU-Net wants, with the masks' names lacking the channel.
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()) == [
        "dataset.json",
        *[f"imagesTr/a{number}_0000.nii.gz" for number in range(3)],
        *[f"labelsTr/a{number}.nii.gz" for number in range(3)],
        "splits_final.json",
    ]
    facts = json.loads((made / "dataset.json").read_text())
    assert facts["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert facts["channel_names"] == {"0": "CT"}
    assert (facts["numTraining"], facts["file_ending"]) == (3, ".nii.gz")
    assert (made / "imagesTr" / "a1_0000.nii.gz").read_bytes() == (tmp_path / "data" / "a1.nii.gz").read_bytes()
    assert json.loads((made / "splits_final.json").read_text()) in (
        [{"train": ["a1", "a2"], "val": ["a0"]}, {"train": ["a0"], "val": ["a1", "a2"]}],
        [{"train": ["a0"], "val": ["a1", "a2"]}, {"train": ["a1", "a2"], "val": ["a0"]}],
    )
    assert content(read_dataset(made)) == content(read_dataset(tmp_path / "data"))


@pytest.mark.parametrize("to", LAYOUTS)
def test_pictures_stay_png_and_white_masks_become_values_where_tools_count_them(tmp_path: Path, to: Any) -> None:
    data = pictures(tmp_path / "data")
    picture(data / "images" / "j.jpg", 8)
    drawn(data / "masks" / "j.png", 8)
    convert(read_dataset(data), data, tmp_path / "out", to)
    made = read_dataset(tmp_path / "out")
    assert content(made) == content(read_dataset(data))
    case = made.cases[-1]
    assert case.image.suffix == ".png"
    stored = set(np.unique(np.asarray(Image.open(case.label))))
    assert stored == ({0, 255} if to in ("folders", "csv") else {0, 1})
    jpeg = made.cases[0].image
    # nnU-Net wants one format for all, and none that loses anything.
    assert jpeg.suffix == (".png" if to == "nnunet" else ".jpg")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mgz", ".nii"])
@pytest.mark.parametrize("to", LAYOUTS)
def test_any_format_of_volumes(tmp_path: Path, suffix: str, to: Any) -> None:
    from phantom import write_volume

    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "masks").mkdir()
    for number in range(2):
        write_volume(tmp_path / "data" / "images" / f"x{number}{suffix}", scan(number), affine(number))
        write_volume(tmp_path / "data" / "masks" / f"x{number}.nii.gz", labels(number), affine(number))
    convert(read_dataset(tmp_path / "data"), tmp_path / "data", tmp_path / "out", to)
    before, after = content(read_dataset(tmp_path / "data")), content(read_dataset(tmp_path / "out"))
    for id_, case in before.items():
        # NIfTI stores directions as float32.
        assert np.allclose(case.pop("affine"), after[id_].pop("affine"), atol=1e-5)
    assert after == before


def test_npz_dicom_and_4d_are_written_as_volumes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgs=scan(3), gts=labels().transpose(0, 1, 2), spacing=np.array([1.0, 2.0, 3.0]))
    convert(read_dataset(tmp_path / "a.npz"), tmp_path / "a.npz", tmp_path.parent / f"{tmp_path.name}-out", "msd")
    made = read_dataset(tmp_path.parent / f"{tmp_path.name}-out")
    assert made.cases[0].image.name == "a.nii.gz"
    assert content(made) == content(read_dataset(tmp_path / "a.npz"))


def test_channels_go_where_there_is_a_place_for_them(in_process: Run, tmp_path: Path) -> None:
    entries = []
    for number in range(2):
        both = np.stack([scan(number), scan(number) + 50], axis=3)
        nifti(tmp_path / "msd" / f"i{number}.nii.gz", both, affine(number))
        nifti(tmp_path / "msd" / f"l{number}.nii.gz", labels(number), affine(number))
        entries.append({"image": f"i{number}.nii.gz", "label": f"l{number}.nii.gz"})
    facts = {"modality": {"0": "FLAIR", "1": "T1"}, "training": entries}
    (tmp_path / "msd" / "dataset.json").write_text(json.dumps(facts))
    assert in_process("dataset", "convert", "msd", "-o", "nn", "--to", "nnunet")[0] == 0
    stored = [nib.load(tmp_path / "nn" / "imagesTr" / f"i1_000{channel}.nii.gz").get_fdata() for channel in (0, 1)]
    assert np.array_equal(stored[0], scan(1))
    assert np.array_equal(stored[1], scan(1) + 50)
    assert json.loads((tmp_path / "nn" / "dataset.json").read_text())["channel_names"] == {"0": "FLAIR", "1": "T1"}
    assert in_process("dataset", "convert", "nn", "-o", "monai", "--to", "monai")[0] == 0
    for channel in (0, 1):
        case = read_dataset(tmp_path / "monai", channel).cases[1]
        assert np.array_equal(open_case(case, read_file)[0].voxels[0], scan(1) + 50 * channel)
    code, _, err = in_process("dataset", "convert", "nn", "-o", "csv", "--to", "csv")
    assert code == 3
    assert "--to nnunet or --to monai keeps all channels" in err
    assert not (tmp_path / "csv").exists()


def test_regions_and_ignore_survive_nnunet_and_the_ignored_voxels_survive_all(tmp_path: Path) -> None:
    data = nnunet(tmp_path / "data", values=(1, 2, 3))
    facts = json.loads((data / "dataset.json").read_text())
    listed = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    (data / "dataset.json").write_text(json.dumps({**facts, "labels": listed, "regions_class_order": [1, 2]}))
    dataset = read_dataset(data)
    for to in LAYOUTS:
        notes = convert(dataset, data, tmp_path / to, to)
        made = read_dataset(tmp_path / to)
        assert made.label_map.ignore == 3
        assert made.labels == {1: "whole", 2: "core"}
        assert set(np.unique(nib.load(made.cases[0].label).get_fdata())) == {0, 1, 2, 3}
        assert np.array_equal(load_pair(made.cases[0])[1] == 0, ~np.isin(labels(0, (1, 2, 3)), (1, 2)))
        assert any("regions" in note for note in notes) == (to != "nnunet")
    again = json.loads((tmp_path / "nnunet" / "dataset.json").read_text())
    assert (again["labels"], again["regions_class_order"]) == (listed, [1, 2])


def test_values_with_gaps_are_kept_and_told(in_process: Run, tmp_path: Path) -> None:
    data = nnunet(tmp_path / "data", values=(1, 7))
    facts = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**facts, "labels": {"background": 0, "liver": 1}}))
    code, _, err = in_process("dataset", "convert", "data", "-o", "out", "--to", "nnunet")
    assert code == 0
    assert "without gaps from 0" in err
    assert read_dataset(tmp_path / "out").labels == {1: "liver", 7: "label_7"}


@st.composite
def datasets(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(2, 4))
    name = st.from_regex(r"[a-z0-9][a-z0-9 ()._-]{0,8}[a-z0-9)]", fullmatch=True)
    names = draw(st.lists(name, min_size=count, max_size=count, unique=True))
    fact = {
        "group": st.sampled_from(["", "anna", "bert"]),
        "caption": st.sampled_from(["", "a liver, enlarged", 'say "ah"']),
        "modality": st.sampled_from(["", "CT", "MRI"]),
    }
    return {
        "flat": draw(st.booleans()),
        "names": names,
        "facts": [{key: draw(each) for key, each in fact.items()} for _ in names],
        "layouts": draw(st.permutations(LAYOUTS)),
        "labels": draw(st.booleans()),
    }


@given(drawn_set=datasets())
@settings(max_examples=12)
def test_round_trips_through_all_layouts(tmp_path_factory: pytest.TempPathFactory, drawn_set: dict[str, Any]) -> None:
    root = tmp_path_factory.mktemp("trip")
    entries = []
    for number, (name, facts) in enumerate(zip(drawn_set["names"], drawn_set["facts"], strict=True)):
        if drawn_set["flat"]:
            image, label = picture(root / "0" / f"i{number}.png", number), drawn(root / "0" / f"l{number}.png", number)
        else:
            image = nifti(root / "0" / f"i{number}.nii.gz", scan(number), affine(number))
            label = nifti(root / "0" / f"l{number}.nii.gz", labels(number), affine(number))
        known = {key: value for key, value in facts.items() if value}
        entries.append({"id": name, "image": image.name, "label": label.name, **known})
    facts: dict[str, Any] = {"training": entries}
    if drawn_set["labels"]:
        facts["labels"] = {"0": "background", "1": "liver", "2": "x y"}
    (root / "0" / "list.json").write_text(json.dumps(facts))
    first = read_dataset(root / "0")
    folders = [root / "0", *(root / to for to in drawn_set["layouts"])]
    for source, output in pairwise(folders):
        convert(read_dataset(source), source, output, output.name)  # type: ignore[arg-type]
    last = read_dataset(folders[-1])
    assert content(last) == content(first)
    if drawn_set["labels"]:
        assert last.labels == first.labels


def test_never_over_what_is_there(in_process: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for extra in ((), ("--overwrite",)):
        code, _, err = in_process("dataset", "convert", "data", "-o", "out", "--to", "csv", *extra)
        assert code == 3, err
    assert "thesis.tex, which no conversion makes" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    for inside in ("data", "data/new", "."):
        code, _, err = in_process("dataset", "convert", "data", "-o", inside, "--to", "csv", "--overwrite")
        assert code == 3
        assert "lie in one another" in err
    assert in_process("dataset", "convert", "data", "-o", "new", "--to", "csv")[0] == 0
    (tmp_path / "new" / "cases.csv").rename(tmp_path / "here.csv")
    rows = (tmp_path / "here.csv").read_text().replace("images/", "new/images/").replace("labels/", "new/labels/")
    (tmp_path / "here.csv").write_text(rows)
    code, _, err = in_process("dataset", "convert", "here.csv", "-o", "new", "--to", "csv", "--overwrite")
    assert code == 3
    assert "lie in one another" in err
    assert in_process("dataset", "convert", "here.csv", "-o", "beside", "--to", "csv")[0] == 0
    code, _, err = in_process("dataset", "convert", "data", "-o", "new", "--to", "monai")
    assert code == 3
    assert "exists already" in err
    assert in_process("dataset", "convert", "data", "-o", "new", "--to", "monai", "--overwrite")[0] == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["datalist.json", "images", "labels"]
    assert {path.name for path in tmp_path.iterdir()} == {"beside", "data", "here.csv", "new", "out"}


def test_all_or_nothing(in_process: Run, tmp_path: Path) -> None:
    data = nnunet(tmp_path / "data")
    nifti(data / "labelsTr" / "p2.nii.gz", labels(2)[1:], affine(2))
    assert in_process("dataset", "convert", "data", "-o", "new", "--to", "csv")[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["Dataset101_HeadNeckCT", "breast-us", "sam-med2d-layout", "fetal-head-us"])
def test_real_datasets_through_all_layouts(in_process: Run, tmp_path: Path, shared: Path, folder: str) -> None:
    source = shared / "data" / folder
    first = content(read_dataset(source))
    for to in LAYOUTS:
        code, _, err = in_process("dataset", "convert", source, "-o", to, "--to", to)
        assert code == 0, err
        assert content(read_dataset(tmp_path / to)) == first
        source = tmp_path / to


def test_an_unreadable_source_is_one_line(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    (data / "masks" / "x1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"x1\.png"):
        convert(read_dataset(data), data, tmp_path / "out", "csv")
    assert len(read_cases(data)) == 3


def test_an_interruption_between_the_moves_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    data = pictures(tmp_path / "data")
    convert(read_dataset(data), data, tmp_path / "out", "csv")
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    original, moves = os.replace, []

    def interrupted(source: Any, target: Any) -> None:
        if Path(source).name.startswith(".medseg-") and Path(target).name == "out" and not moves:
            moves.append(source)
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr("medseg_cli.writers.atomic.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(read_dataset(data), data, tmp_path / "out", "monai", overwrite=True)
    assert moves
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
