"""Clicks and boxes as text: the command line's form and the CSV table, in every spelling of spreadsheets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Box, Click, Target
from medseg_cli.prompt_file import parse_box, parse_point, read_prompts

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite, finite, st.sampled_from(["", ":+", ":-"]))
def test_any_three_numbers_are_a_point(x: float, y: float, z: float, sign: str) -> None:
    assert parse_point(f"{x!r},{y!r},{z!r}{sign}", "ras") == Click((x, y, z), "ras", sign != ":-")


@given(finite, finite, st.sampled_from(["", ":+", ":-"]))
def test_two_numbers_are_a_point_in_a_plane(x: float, y: float, sign: str) -> None:
    assert parse_point(f"{x!r},{y!r}{sign}", "ijk") == Click((x, y), "ijk", sign != ":-")


@given(st.lists(finite, min_size=4, max_size=4) | st.lists(finite, min_size=6, max_size=6))
def test_four_or_six_numbers_are_a_box(numbers: list[float]) -> None:
    box = parse_box(",".join(map(repr, numbers)), "lps")
    assert box == Box(tuple(numbers[: len(numbers) // 2]), tuple(numbers[len(numbers) // 2 :]), "lps")


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,4,5,6,7", "1,2,3,x", "1,2,3,nan", "1 2 3 4", "1,2,3,4:-"]
)
def test_no_other_text_is_a_box(text: str) -> None:
    with pytest.raises(UsageError, match="is not x0,y0,x1,y1") as caught:
        parse_box(text, "ijk")
    assert "--box" in caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "1", "1,2:", "1,2,3,4", "1,2,x", "1;2;3", "1,2,nan", "1,2,inf", "1,2,3:", "1,2,3:0"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="is not x,y,z") as caught:
        parse_point(text, "ijk")
    assert "--point" in caught.value.hint


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_objects_come_in_order_of_first_appearance(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "id,label,x,y,z,sign,coords\nb,left,1,2,3,+,ras\na,right,4,5,6,,\nb,,7,8,9,-,lps\na,right,-1e1,0.5,.25,1,ijk\n",
    )
    assert read_prompts(path, "lps").targets == (
        Target("b", "left", (Click((1, 2, 3), "ras", True), Click((7, 8, 9), "lps", False))),
        Target("a", "right", (Click((4, 5, 6), "lps", True), Click((-10, 0.5, 0.25), "ijk", True))),
    )


def test_boxes_and_clicks_of_one_object_stand_in_one_table(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "id,x,y,z,x1,y1,z1,sign,coords\na,1,2,3,4,5,6,,\na,2,3,4,,,,-,\nb,-9,-8,-7,-6,-5,-4,+,ras\na,0,0,3,1,1,3,,\n",
    )
    assert read_prompts(path).targets == (
        Target("a", "", (Click((2, 3, 4), "ijk", False),), (Box((1, 2, 3), (4, 5, 6)), Box((0, 0, 3), (1, 1, 3)))),
        Target("b", "", (), (Box((-9, -8, -7), (-6, -5, -4), "ras"),)),
    )


def test_a_table_without_z_lies_in_a_plane(tmp_path: Path) -> None:
    path = table(tmp_path, "x,y,x1,y1\n1,2,,\n3,4,5,6\n")
    assert read_prompts(path).targets == (Target("1", "", (Click((1, 2)),), (Box((3, 4), (5, 6)),)),)


def test_only_coordinates_are_required_in_any_order(tmp_path: Path) -> None:
    path = table(tmp_path, "z,X,y\n3,1,2\n6,4,5\n")
    assert read_prompts(path).targets == (Target("1", "", (Click((1, 2, 3)), Click((4, 5, 6)))),)


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfid,x,y,z\r\n\r\n7,1.5,-2,3\r\n,,,\r\n",
        b"id;x;y;z\n\n7;1,5;-2;3\n",
        b"\nid\tx\ty\tz\n7\t1.5\t-2\t3",
        b'"id","x","y","z"\r7, 1.5, -2, "3"\r',
    ],
    ids=["bom, crlf, blank lines", "semicolons, decimal comma", "tabs", "quotes, cr"],
)
def test_spreadsheet_dialects(tmp_path: Path, text: bytes) -> None:
    assert read_prompts(table(tmp_path, text)).targets == (Target("7", "", (Click((1.5, -2, 3)),)),)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", None, "empty"),
        ("\n \n", None, "empty"),
        ("x,y,z\n", None, "no prompt under the header"),
        ("1,2,3\n4,5,6\n", 1, "lacks x, y"),
        ("x,z\n1,2\n", 1, "lacks y"),
        ("x,y,z,x1,y1\n1,2,3,4,5\n", 1, "lacks z1"),
        ("x,y,x1,y1,z1\n1,2,3,4,5\n", 1, "lacks z"),
        ("x,y,x1\n1,2,3\n", 1, "lacks y1"),
        ("x,y,x1,y1\n1,2,3,\n", 2, "this box has x1 and lacks y1"),
        ("x,y,z,x1,y1,z1\n1,2,3,4,5,\n", 2, "this box has x1, y1 and lacks z1"),
        ("x,y,x1,y1\n1,2,,5\n", 2, "this box has y1 and lacks x1"),
        ("x,y,z,x1,y1,z1\n1,2,,4,5,6\n", 2, "z is ''"),
        ("x,y,x1,y1,sign\n1,2,3,4,-\n", 2, "a box has no minus sign"),
        ("x,y,x1,y1\n1,2,3,4\n3,4,,\n1,2,3.0,4\n", 4, "this box repeats line 2"),
        ("x,y,z,color\n1,2,3,red\n", 1, "does not know 'color'"),
        ("x,y,z,x\n1,2,3,4\n", 1, "'x' twice"),
        ("x,y,z\n1,2,3\n1,two,3\n", 3, "y is 'two'"),
        ("x,y,z\n1,,3\n", 2, "y is ''"),
        ("x,y,z\n1,nan,3\n", 2, "y is 'nan'"),
        ("x,y,z\n1,2\n", 2, "2 values for 3 columns"),
        ("x,y,z\n1,2,3,4\n", 2, "4 values for 3 columns"),
        ("x,y,z,sign\n1,2,3,plus\n", 2, "sign 'plus'"),
        ("x,y,z,coords\n1,2,3,mni\n", 2, "coords 'mni'"),
        ("x,y,z\n1,2,3\n\n1,2,3.0\n", 4, "repeats line 2"),
        ("x,y,z,sign\n1,2,3,+\n1,2,3,-\n", 3, "contradicts line 2"),
        ("id,label,x,y,z\na,left,1,2,3\na,right,4,5,6\n", 3, "'left' on line 2"),
        ("id,label,x,y,z\na,\x1b[31mleft,1,2,3\n", 2, "cannot be printed"),
        ('x,y,z\n1,"2"2,3\n', 2, "expected after"),
        (b"x,y,z\n1,2,3\n\xff,2,3\n", 3, "not UTF-8"),
        (b"x,y,z\n1,\x002,3\n", 2, "not a text table"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, text: str | bytes, line: int | None, what: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert what in caught.value.message
    assert f"{path}:{line}: " in caught.value.message if line else str(path) in caught.value.message


def test_the_same_place_is_fine_for_two_objects(tmp_path: Path) -> None:
    assert len(read_prompts(table(tmp_path, "id,x,y,z\na,1,2,3\nb,1,2,3\n")).targets) == 2


def test_a_missing_table_or_a_folder_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot read the prompt table"):
            read_prompts(path)
