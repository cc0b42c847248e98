"""What a batch may meet: names, manifests, headers and records that nobody should have written."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medseg_cli.batch import inputs, plan, records, resume, tables
from medseg_cli.batch.listing import NOTHING, list_cases
from medseg_cli.batch.names import safe
from medseg_cli.batch.patterns import matches
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.batch.slurm import ShardTask
from medseg_cli.errors import InputError
from medseg_cli.segmentation import Label
from medseg_cli.writers import members

OUTPUT = {"path": "a_seg.nii.gz", "sha256": "0" * 64, "bytes": 1, "kind": "nifti"}


def write_scan(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), path)
    return path


def test_digits_that_are_no_numbers_sort_as_letters(tmp_path: Path) -> None:
    for name in ("1²2.nii", "m²10.nii", "m²9.nii", "٣.nii"):
        write_scan(tmp_path / name)
    ids = [case.id for case in list_cases(tmp_path).cases]
    assert sorted(ids) == sorted(("1²2", "m²10", "m²9", "٣"))
    assert ids.index("m²9") < ids.index("m²10")


@pytest.mark.parametrize(
    "values",
    [
        {"path": "x" * 300 + ".nii"},
        {"path": "~nobody-has-this-name/a.nii"},
        {"path": "a.nii", "channel": "9" * 5000},
        {"path": "a.nii", "point": "1,1,1", "mask_prompt": "x" * 300},
        {"path": "a.nii", "prompts": "x" * 300},
        {"path": "zero\0byte.nii"},
    ],
)
def test_a_row_that_cannot_be_used_costs_itself_only(tmp_path: Path, values: dict[str, Any]) -> None:
    write_scan(tmp_path / "a.nii")
    manifest = tmp_path / "cases.json"
    manifest.write_text(json.dumps([{**values, "name": "bad"}, {"path": "a.nii", "name": "good"}]))
    bad, good = list_cases(manifest).cases
    assert good.problem is None
    assert bad.problem is not None
    assert "entry 1" in bad.problem.message or "x" * 300 in bad.problem.message


def test_a_manifest_that_unfolds_into_gigabytes_is_refused(tmp_path: Path) -> None:
    manifest = tmp_path / "cases.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    manifest.write_text("\n".join([*lines, "cases: [*a11]"]))
    with pytest.raises(InputError, match="aliases"):
        list_cases(manifest)
    manifest.write_text("- path: " + "[" * 2000)
    with pytest.raises(InputError, match="nested"):
        list_cases(manifest)


def test_messages_do_not_repeat_all_of_a_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "cases.json"
    manifest.write_text(json.dumps([[["long"] * 1000] * 100]))
    with pytest.raises(InputError) as raised:
        list_cases(manifest)
    assert len(raised.value.message) < 300 + len(str(manifest))


@pytest.mark.parametrize("header", ["a.mhd", "a.nhdr"])
def test_a_header_that_names_no_possible_file(tmp_path: Path, header: str) -> None:
    image = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.uint8))
    SimpleITK.WriteImage(image, str(tmp_path / header))
    raw = next(path for path in tmp_path.iterdir() if path.name != header)
    text = (tmp_path / header).read_bytes()
    assert raw.name.encode() in text
    (tmp_path / header).write_bytes(text.replace(raw.name.encode(), b"a\0.raw"))
    (case,) = list_cases(tmp_path).cases
    assert case.problem is not None
    assert "damaged" in case.problem.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"outputs": ["a"]},
        {"outputs": [{**OUTPUT, "path": "../a_seg.nii.gz"}]},
        {"outputs": [{**OUTPUT, "path": "/a_seg.nii.gz"}]},
        {"left": [{**OUTPUT, "path": "C:\\a_seg.nii.gz"}]},
        {"input": "a.nii.gz"},
        {"worker": None},
        {"labels": [{}]},
        {"outputs": [{"path": "a_seg.nii.gz"}]},
        {"labels": [1]},
        {"thumbnail": "/a.webp"},
    ],
)
def test_a_record_that_no_run_has_written_is_none(tmp_path: Path, wrong: dict[str, Any]) -> None:
    good = Record("a", "ok", outputs=(OUTPUT,), thumbnail=".medseg/views/a.thumbnail.webp")
    records.write(tmp_path, good)
    assert records.read(tmp_path, "a") == good
    (path,) = (tmp_path / ".medseg" / "cases").iterdir()
    path.write_text(json.dumps({**good.to_json(), **wrong}))
    assert records.read(tmp_path, "a") is None
    path.write_text("[" * 200_000)
    assert records.read_all(tmp_path) == []


def test_the_data_beside_a_mask_of_a_prompt_count(tmp_path: Path) -> None:
    write_scan(tmp_path / "a.nii")
    (case,) = list_cases(tmp_path / "a.nii").cases
    mask = tmp_path / "mask.mhd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((5, 4, 3), np.uint8)), str(mask))
    case = replace(case, asked=replace(NOTHING, mask=mask))
    before = inputs.asked(case, "preset")
    assert inputs.asked(case, "preset") == before
    (tmp_path / "mask.raw").write_bytes(struct.pack("60B", *range(60)))
    assert inputs.asked(case, "preset") != before


@pytest.mark.parametrize("name", ["肝" * 120, "a" * 99 + ".b", "é" * 80])
def test_names_of_structures_fit_into_file_names(tmp_path: Path, name: str) -> None:
    labels = (Label(1, name), Label(2, name + "x"), Label(3, name.upper()))
    found = members.names(labels)
    assert len({each.casefold() for each in found.values()}) == 3
    for each in found.values():
        (tmp_path / f"{each}.nii.gz").touch()
        assert not each.endswith(".")


def test_a_task_takes_no_program_from_the_folder_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise SystemExit(77)\n")
    assert ShardTask(("--version",), str(tmp_path))() == 0


@pytest.mark.parametrize(
    "words", [("batch", "a.nii", "-o", "out", "--memory", "inf"), ("report", "out", "--viewer-budget", "inf")]
)
def test_a_limit_that_is_none(in_process: Callable[..., tuple[int, str, str]], words: tuple[str, ...]) -> None:
    code, _, told = in_process(*words)
    assert code == 2
    assert words[-2] in told


def test_cases_that_bids_would_call_alike_are_not_run(tmp_path: Path) -> None:
    for name in ("a/b.nii", "aB.nii", "c.nii", "sub-01_T1w.nii", "sub-01_T2w.nii"):
        write_scan(tmp_path / name)
    cases = list_cases(tmp_path).cases
    assert plan.apart(cases, "case") == cases
    problems = {case.id: case.problem for case in plan.apart(cases, "bids")}
    assert {id_ for id_, problem in problems.items() if problem is not None} == {"a/b", "aB"}
    assert "a/b, aB" in str(problems["a/b"])


def test_patterns_that_are_none_mean_themselves() -> None:
    assert matches("sub-01/[z-a].nii", ["[z-a].nii"])
    assert not matches("sub-01/m.nii", ["[z-a].nii"])
    assert not matches("a.nii", ["[]"])
    assert matches("a/b/c/x.nii", ["**/**/**/x.nii"])
    assert not matches("a/" * 300 + "c", ["**/" * 12 + "x"])


def test_names_that_are_cut_end_as_windows_allows() -> None:
    assert safe("a" * 149 + ".b/c") == "a" * 149 + "/c"


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_no_cell_of_the_table_is_a_formula(name: str) -> None:
    row = tables.to_csv([Record(name, "failed", "=cmd")]).splitlines()[1]

    assert row.startswith(f"'{name},failed,'=cmd,")


def test_marks_that_turn_text_are_no_part_of_a_name() -> None:
    assert safe("scan\u202etxt.iin\u200b") == "scan_txt.iin_"


def test_a_damaged_record_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records.write(tmp_path, Record("c1", "ok", outputs=(OUTPUT,)))
    (path,) = (tmp_path / ".medseg/cases").glob("*.json")
    path.write_text(path.read_text()[:100])

    assert records.read_all(tmp_path) == []
    assert records.read(tmp_path, "c1") is None
    assert [path.name in each.getMessage() for each in caplog.records] == [True], "once"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            {"code": 3, "message": "cannot write m.nii.gz: No space left on device", "hint": ""},
            "the machine was at fault",
        ),
        ({"code": 5, "message": "out of memory", "hint": ""}, "the machine was at fault"),
        ({"code": 3, "message": "x.nii is damaged", "hint": "copy it again"}, ""),
    ],
)
def test_a_machine_at_fault_is_tried_again(error: dict[str, Any], why: str, tmp_path: Path) -> None:
    (case,) = list_cases(write_scan(tmp_path / "in/a.nii")).cases
    settings = Settings(tmp_path / "out", "none")
    asked = inputs.asked(case, "preset")
    record = Record(case.id, "failed", error=error, input={"sha256": inputs.digest(case)}, settings_sha256=asked)

    assert resume.why_again(case, record, settings, "preset", retry_failed=False).startswith(why)
    assert bool(resume.why_again(case, record, settings, "preset", retry_failed=False)) is bool(why)
