"""Names of BIDS derivatives, as BIDS's own schema judges them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import phantom
import pytest
from bidsschematools import rules, schema
from hypothesis import given
from hypothesis import strategies as st

from medseg_cli import __version__
from medseg_cli.errors import UsageError
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import bids, formats, outputs
from medseg_cli.writers.formats import FORMATS, Choices


@pytest.fixture(scope="module")
def allowed() -> list[re.Pattern[str]]:
    """The file names that BIDS allows for derivatives, from its schema."""
    known = schema.load_schema()
    found = rules.regexify_filename_rules(known.rules.files.deriv, known, level=2)
    return [re.compile(each["regex"]) for each in found]


def is_bids(path: str, allowed: list[re.Pattern[str]]) -> bool:
    return any(each.fullmatch(path) for each in allowed)


@pytest.mark.parametrize(
    ("case", "path"),
    [
        ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_desc-medsegT1w_dseg"),
        ("sub-01/anat/sub-01_T2w", "sub-01/anat/sub-01_desc-medsegT2w_dseg"),
        ("sub-01_ses-2_run-03_FLAIR", "sub-01/ses-2/anat/sub-01_ses-2_run-03_desc-medsegFLAIR_dseg"),
        (
            "sub-a/ses-b/anat/sub-a_ses-b_acq-hi_space-MNI_desc-preproc_T1w",
            "sub-a/ses-b/anat/sub-a_ses-b_acq-hi_space-MNI_desc-medsegPreprocT1w_dseg",
        ),
        ("sub-01/func/sub-01_task-rest_bold", "sub-01/func/sub-01_task-rest_desc-medsegBold_dseg"),
        ("sub-01_dir-AP_dwi", "sub-01/dwi/sub-01_dir-AP_desc-medsegDwi_dseg"),
        ("sub-01", "sub-01/anat/sub-01_desc-medseg_dseg"),
    ],
)
def test_entities_of_the_source_stay(case: str, path: str, allowed: list[re.Pattern[str]]) -> None:
    derived = bids.derive(case)
    assert (str(derived.path), derived.notes) == (path, ())
    for suffix in (".nii.gz", ".json", ".tsv"):
        assert is_bids(f"{path}{suffix}", allowed)
    assert not is_bids(f"{path}.nii.gz".replace("desc", "nonsense"), allowed), "the judge can say no"


@pytest.mark.parametrize(
    ("case", "subject"),
    [
        ("brain", "brain"),
        ("Müller/scan-2 (old)", "MullerScan2Old"),
        ("sub-01_sub-02_T1w", "sub01Sub02T1w"),
        ("sub-0 1_T1w", "sub01T1w"),
        ("sub-01__T1w", "sub01T1w"),
        ("患者", "9db4a3b3"),
    ],
)
def test_other_names_become_subjects_and_are_said(case: str, subject: str, allowed: list[re.Pattern[str]]) -> None:
    derived = bids.derive(case)
    assert str(derived.path) == f"sub-{subject}/anat/sub-{subject}_desc-medseg_dseg"
    assert derived.notes == (f"'{case}' is no BIDS name: the scan is called sub-{subject}",)
    assert is_bids(f"{derived.path}.nii.gz", allowed)


@given(case=st.text(min_size=1, max_size=60))
def test_whatever_a_case_is_called_its_name_is_fit_for_bids(case: str) -> None:
    assert re.fullmatch(
        r"sub-[0-9A-Za-z+]+/(ses-[0-9A-Za-z+]+/)?[a-z]+/sub-[0-9A-Za-z+]+(_[a-z]+-[0-9A-Za-z+]+)*_desc-medseg[0-9A-Za-z+]*_dseg",
        str(bids.derive(case).path),
    )


def written(out: Path, case: str = "sub-01/anat/sub-01_T1w", *wanted: str) -> outputs.Outputs:
    segmentation = phantom.segmentation(phantom.scan())
    named = Segmentation(
        segmentation.mask,
        (Label(1, "white matter", (255, 255, 255)), Label(2, 'left "big"\tlesion', (1, 2, 3))),
        segmentation.scan,
    )
    files = outputs.plan_case(out, case, wanted=wanted, naming="bids", preview=False)
    with outputs.staged(files, overwrite=False) as places:
        outputs.write(named, places, Choices())
        places.report.write_text(json.dumps(bids.facts(named)))
    return files


def test_a_folder_of_derivatives(tmp_path: Path) -> None:
    files = written(tmp_path / "out")
    folder = tmp_path / "out" / "sub-01" / "anat"
    stem = "sub-01_desc-medsegT1w_dseg"
    assert sorted(path.name for path in folder.iterdir()) == [f"{stem}{end}" for end in (".json", ".nii.gz", ".tsv")]
    assert files.mask == folder / f"{stem}.nii.gz"
    about = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"] == [{"Name": "medseg", "Version": __version__}]
    known = schema.load_schema()
    fields = [*known.rules.json.dataset.values()]
    required = [name for each in fields for name, level in each.fields.items() if level == "required"]
    assert "GeneratedBy" in required
    assert set(required) <= set(about), required
    with (folder / f"{stem}.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows == [
        {"index": "1", "name": "white matter", "abbreviation": "WM", "color": "#ffffff", "mapping": "2"},
        {"index": "2", "name": 'left "big" lesion', "abbreviation": "LBL", "color": "#010203", "mapping": "n/a"},
    ]
    columns = known.rules.tabular_data.derivatives.common_derivatives.SegmentationLookup.columns
    assert set(rows[0]) == {name.partition("__")[0] for name in columns}
    assert json.loads((folder / f"{stem}.json").read_text())["Manual"] is False


def test_what_describes_the_folder_already_stays(tmp_path: Path) -> None:
    described = {"Name": "mine", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    (tmp_path / "dataset_description.json").write_text(json.dumps(described))
    written(tmp_path)
    assert json.loads((tmp_path / "dataset_description.json").read_text()) == described
    written(tmp_path, "sub-02/anat/sub-02_T1w")


def test_raw_data_are_no_place_for_derivatives(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.8.0"}))
    with pytest.raises(UsageError, match="raw data") as caught:
        written(tmp_path)
    assert "derivatives" in caught.value.hint


def test_formats_that_bids_does_not_know_lie_beside_and_are_ignored(tmp_path: Path) -> None:
    from medseg_cli.batch.patterns import matches

    others = ("dicom-seg", "rtstruct", "png", "areas-csv", "explain", "uncertainty")
    files = written(tmp_path, "sub-01_T1w", "nifti", *(name for name in FORMATS if name not in others))
    patterns = tuple(
        line for line in (tmp_path / ".bidsignore").read_text().splitlines() if line and not line.startswith("#")
    )
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".")]
    names = [path.relative_to(tmp_path).as_posix() for path in kept]
    left = sorted(name for name in names if not matches(name, patterns))
    stem = "sub-01/anat/sub-01_desc-medsegT1w_dseg"
    assert left == ["dataset_description.json", f"{stem}.json", f"{stem}.nii.gz", f"{stem}.tsv"]
    assert len(files.written) == len(FORMATS) - len(others)
    # Of cines alone, which this scan is not.
    assert all(matches(name, patterns) for name in ("areas.csv", f"{stem.removesuffix('_dseg')}_areas.csv"))
    assert (tmp_path / "sub-01/anat/sub-01_desc-medsegT1w_stl").is_dir()


def test_the_source_is_named_within_its_dataset(tmp_path: Path) -> None:
    from dataclasses import replace

    raw = tmp_path / "raw" / "sub-01" / "anat"
    raw.mkdir(parents=True)
    (tmp_path / "raw" / "dataset_description.json").write_text(json.dumps({"Name": "raw", "BIDSVersion": "1.8.0"}))
    segmentation = phantom.segmentation(phantom.scan())
    scan = replace(segmentation.scan, provenance=replace(segmentation.scan.provenance, path=raw / "sub-01_T1w.nii.gz"))
    known = bids.facts(Segmentation(segmentation.mask, segmentation.labels, scan))
    assert known["RawSources"] == ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert "RawSources" not in bids.facts(segmentation)


def test_bids_names_and_a_name_of_ones_own_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--naming bids"):
        outputs.plan(tmp_path / "sub-01_T1w.nii.gz", str(tmp_path / "mask.nii.gz"), naming="bids")


def test_the_data_type_is_that_of_the_scans_folder(tmp_path: Path) -> None:
    (tmp_path / "pet").mkdir()
    scan = phantom.write_volume(
        tmp_path / "pet" / "sub-01_trc-FDG_pet.nii.gz", np.zeros((3, 3, 3), np.int16), np.eye(4)
    )
    files = outputs.plan(scan, f"{tmp_path}/out/", naming="bids")
    assert files.mask == tmp_path / "out/sub-01/pet/sub-01_trc-FDG_desc-medsegPet_dseg.nii.gz"
    assert formats.of_file(files.mask)[0].name == "nifti"
