"""Images with sentences: CSV, JSON lines and texts beside pictures; and what refuses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_cli.datasets import load_pair, read_cases, read_dataset
from medseg_cli.errors import InputError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (12, 16), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def as_csv(folder: Path) -> Path:
    path = folder / "captions.csv"
    path.write_text(
        'image,caption,patient\na.png,"the lungs, clear",p1\na.png,two lungs,p1\nb.png,a head,p2\nc.png,a head,p3\n'
    )
    return path


def as_lines(folder: Path) -> Path:
    path = folder / "captions.jsonl"
    entries = [
        {"image": "a.png", "captions": ["the lungs, clear", "two lungs"], "patient": "p1"},
        {"image": "b.png", "caption": "a head", "patient": "p2"},
        {"image": "c.png", "caption": "a head", "patient": "p3"},
    ]
    path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    return path


def as_texts(folder: Path) -> Path:
    for name, text in (("a", "the lungs, clear\ntwo lungs\n"), ("b", "a head"), ("c", "a head")):
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.mark.parametrize("write", [as_csv, as_lines, as_texts])
def test_every_way_of_writing_captions_gives_the_same(write: Callable[[Path], Path], pictures: Path) -> None:
    found = read_dataset(write(pictures))

    assert found.layout == "images with captions"
    assert [case.phrasings for case in found.cases] == [("the lungs, clear", "two lungs"), ("a head",), ("a head",)]
    assert all(case.captioned for case in found.cases)
    if write is not as_texts:
        assert [case.patient for case in found.cases] == ["p1", "p2", "p3"]


def test_a_folder_with_one_list_of_captions_is_read_by_it(pictures: Path) -> None:
    as_lines(pictures)

    assert [case.id for case in read_cases(pictures)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "no JSON"),
        ("[1]", "holds a list"),
        ('{"image": "a.png"}', "names no caption"),
        ('{"caption": "x"}', "image"),
    ],
)
def test_lines_that_are_none_are_named(line: str, what: str, pictures: Path) -> None:
    path = pictures / "captions.jsonl"
    path.write_text('{"image": "b.png", "caption": "a head"}\n' + line)

    with pytest.raises(InputError, match="line 2") as caught:
        read_cases(path)
    assert what in caught.value.message


def test_an_image_that_is_missing_is_named(pictures: Path) -> None:
    path = as_lines(pictures)
    (pictures / "b.png").unlink()

    with pytest.raises(InputError, match=r"b\.png, which does not exist"):
        read_cases(path)


def test_captions_are_no_masks(pictures: Path, run_medseg: Callable[..., object]) -> None:
    path = as_lines(pictures)

    with pytest.raises(InputError, match="a caption and no mask"):
        load_pair(read_cases(path)[0])
    checked = run_medseg("dataset", "check", str(path))
    converted = run_medseg("dataset", "convert", str(path), "-o", str(pictures / "out"), "--to", "nnunet")
    assert checked.rc == 0, checked  # type: ignore[attr-defined]
    assert converted.rc == 3  # type: ignore[attr-defined]
    assert "captions and no masks" in converted.stderr  # type: ignore[attr-defined]
