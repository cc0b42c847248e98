"""A manifest: one row per case, in every form that people save tables in; a bad row costs one case."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from phantom import affine, voxels, write_volume

from medseg_cli.batch.case import BatchCase, Cases
from medseg_cli.batch.listing import list_cases
from medseg_cli.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans in a folder of their own."""
    (tmp_path / "scans").mkdir()
    for name in ("a", "b"):
        write_volume(tmp_path / "scans" / f"{name}.nii.gz", voxels(), affine())
    return tmp_path


def listed(folder: Path, text: str, name: str = "cases.csv", encoding: str = "utf-8") -> Cases:
    (folder / name).write_text(text, encoding=encoding)
    return list_cases(folder / name)


def case(cases: Cases, id_: str) -> BatchCase:
    return next(each for each in cases.cases if each.id == id_)


def test_columns_say_how_a_scan_is_read_and_what_is_asked(folder: Path) -> None:
    (folder / "own.csv").write_text("x,y,z\n1,2,3\n")
    found = listed(
        folder,
        "path,name,preset,point,coords,label,channel,modality,prompts,slice,box\n"
        'scans/a.nii.gz,first,hippocampus-mr,"1,2,3; 4,5,1:-",ras,tumour,2,mr,,,\n'
        "scans/b.nii.gz,study/second,,,,,,,own.csv,,\n"
        f'{folder}/scans/a.nii.gz,third,,,,,,,,4,"1,2,3,4"\n',
    )

    first = case(found, "first")
    assert (first.preset, first.modality, first.reading.channel) == ("hippocampus-mr", "MR", 2)
    prompt = first.asked.prompt()
    assert [(click.position, click.frame, click.positive) for click in prompt.targets[0].clicks] == [
        ((1.0, 2.0, 3.0), "ras", True),
        ((4.0, 5.0, 1.0), "ras", False),
    ]
    assert prompt.targets[0].label == "tumour"
    assert case(found, "study/second").asked.table == folder / "own.csv"
    assert case(found, "third").asked.slice == 4
    assert case(found, "third").asked.boxes == ("1,2,3,4",)
    assert all(each.problem is None and each.files for each in found.cases)


def test_json_lines_json_and_yaml_say_the_same_as_csv(folder: Path) -> None:
    rows = [{"path": "scans/a.nii.gz", "point": [1, 2, 3]}, {"path": "scans/b.nii.gz", "point": [[1, 2, 3], "4,5,1:-"]}]
    ways = {
        "m.json": json.dumps(rows),
        "n.json": json.dumps({"cases": rows}),
        "m.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
        "m.yaml": "- {path: scans/a.nii.gz, point: [1, 2, 3]}\n"
        "- path: scans/b.nii.gz\n  point: [[1, 2, 3], '4,5,1:-']\n",
        "m.csv": 'path,point\nscans/a.nii.gz,"1,2,3"\nscans/b.nii.gz,"1,2,3;4,5,1:-"\n',
        "m.tsv": "path\tpoint\nscans/a.nii.gz\t1,2,3\nscans/b.nii.gz\t1,2,3;4,5,1:-\n",
    }
    for name, text in ways.items():
        found = listed(folder, text, name)
        assert [each.id for each in found.cases] == ["scans/a", "scans/b"], name
        assert [each.asked.points for each in found.cases] == [("1,2,3",), ("1,2,3", "4,5,1:-")], name


def test_what_excel_writes_is_read(folder: Path) -> None:
    text = 'Path;Mask Prompt;Point;;\r\nscans/a.nii.gz;;"1,2,3";;\r\n;;;;\r\nscans\\b.nii.gz;;;;\r\n'
    found = listed(folder, text, encoding="utf-8-sig")
    assert [each.id for each in found.cases] == ["scans/a", "scans/b"]
    assert case(found, "scans/a").asked.points == ("1,2,3",)
    assert case(found, "scans/b").problem is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("scans/gone.nii.gz,,,,", "there is no scan"),
        ("scans/a.nii.gz,one,,,", "channel 'one'"),
        ("scans/a.nii.gz,,1;2,,", "--point '1'"),
        ("scans/a.nii.gz,,,xyz,", "coords 'xyz'"),
        ("scans/a.nii.gz,,,,liver=", "says nothing"),
        ("readme.txt,,,,", "of no kind"),
        ("empty.nii.gz,,,,", "0 bytes"),
    ],
)
def test_a_row_that_cannot_be_run_is_one_failed_case(folder: Path, row: str, words: str) -> None:
    (folder / "readme.txt").write_text("hello")
    (folder / "empty.nii.gz").touch()
    found = listed(folder, f"path,channel,point,coords,text\n{row}\nscans/b.nii.gz,,,,\n")
    bad = next(each for each in found.cases if each.id != "scans/b")
    assert bad.problem is not None
    assert words in bad.problem.message
    assert case(found, "scans/b").problem is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,presett\na,b\n", r"no column 'presett' \(did you mean preset\?\)"),
        ("name,preset\na,b\n", "needs the column path"),
        ("path,path\na,b\n", "two columns"),
        ("path,name\n,x\n", "line 2 names no path"),
        ("path,point\nscans/a.nii.gz,1,2,3\n", "4 values for 2 columns"),
        ("path,name\nscans/a.nii.gz,Same\nscans/b.nii.gz,same\n", "both called"),
        ("path\nscans/a.nii.gz\nscans/a.nii.gz\n", "both called scans/a"),
        ("path,name\nscans/a.nii.gz,../out\n", "cannot be the name"),
        ("path,name\nscans/a.nii.gz,x.nii.gz\n", "has a suffix"),
        ("\n\n", "is empty"),
    ],
)
def test_a_table_that_is_wrong_as_a_whole_is_refused(folder: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        listed(folder, text)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "[3]", "{"])
def test_json_that_is_no_manifest_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"manifest|not an object"):
        listed(folder, text, "m.json")


def test_a_preset_beside_the_manifest_is_meant_by_its_path(folder: Path) -> None:
    (folder / "my.yaml").write_text("name: my\n")
    found = listed(folder, "path,preset\nscans/a.nii.gz,my.yaml\nscans/b.nii.gz,medsam\n")
    assert [each.preset for each in found.cases] == [str(folder / "my.yaml"), "medsam"]
