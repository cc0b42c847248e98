"""gzip through ISA-L and through the standard library: the same bytes, the same refusals, the same masks."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg_cli import gzip_file, memory_order
from medseg_cli.errors import InputError
from medseg_cli.memory_order import ordered_copy
from medseg_cli.readers import ReadOptions, payload
from medseg_cli.readers.files import read_file
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers.masks import write_mask

BOTH = pytest.mark.parametrize("fast", [True, False], ids=["isal", "standard library"])
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def chosen(fast: bool, monkeypatch: pytest.MonkeyPatch) -> bool:
    if fast:
        pytest.importorskip("isal", reason="no ISA-L wheel for this platform")
    monkeypatch.setattr(gzip_file, "FAST", fast)
    return fast


def test_isal_is_used_where_it_is_installed() -> None:
    pytest.importorskip("isal", reason="no ISA-L wheel for this platform")
    assert gzip_file.FAST


@BOTH
@FEW
@given(data=st.binary(max_size=5000), repeat=st.integers(1, 60), level=st.integers(0, 9), members=st.integers(1, 3))
def test_what_anyone_packed_is_unpacked_to_the_same_bytes(
    tmp_path: Path, chosen: bool, data: bytes, repeat: int, level: int, members: int
) -> None:
    """One stream or several behind each other, as bgzip and pigz write them, at any level."""
    path = tmp_path / "file.gz"
    path.write_bytes(b"".join(gzip.compress(data * repeat, level) for _ in range(members)))
    assert payload.unpack(path) == data * repeat * members
    assert payload.unpack(path, limit=7) == (data * repeat * members)[:7]


@BOTH
@FEW
@given(data=st.binary(max_size=5000), repeat=st.integers(1, 60))
def test_what_we_pack_the_standard_library_unpacks(tmp_path: Path, chosen: bool, data: bytes, repeat: int) -> None:
    path = tmp_path / "file.gz"
    for _ in range(2):
        with path.open("wb") as file, gzip_file.packing(file) as stream:
            stream.write(data * repeat)
        packed = path.read_bytes()
        assert gzip.decompress(packed) == data * repeat
        # No name, no time: a mask's hash must not change with the day.
        assert packed[3] == 0
        assert packed[4:8] == bytes(4)


@BOTH
@FEW
@given(seed=st.integers(0, 99), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path, chosen: bool, seed: int, where: float, bit: int) -> None:
    """Whatever bit of a stream flips: what is returned is right, or an InputError says why nothing is."""
    data = np.random.default_rng(seed).integers(0, 30, 4000).astype(np.int16).tobytes()
    packed = bytearray(gzip.compress(data, mtime=0))
    place = int(where * len(packed))
    packed[place] ^= 1 << bit
    path = tmp_path / "flip.gz"
    path.write_bytes(packed)
    if packed[:2] != b"\x1f\x8b":
        assert payload.unpack(path) == packed
        return
    try:
        unpacked = payload.unpack(path)
    except InputError as error:
        unpacked = None
        refusal = error.message
    assert unpacked == data if unpacked is not None else str(path) in refusal


@BOTH
@pytest.mark.parametrize("keep", [3, 12, 200, -9, -4, -1])
def test_a_stream_cut_anywhere_is_truncated(tmp_path: Path, chosen: bool, keep: int) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(5000))[:keep])
    with pytest.raises(InputError, match="is truncated: its gzip stream ends early"):
        payload.unpack(path)


@BOTH
def test_a_wrong_checksum_a_wrong_length_and_garbage_behind_are_damage(tmp_path: Path, chosen: bool) -> None:
    good = gzip.compress(bytes(5000))
    for damaged in (
        good[:-8] + bytes(4) + good[-4:],
        good[:-4] + bytes(4),
        good + b"garbage" * 6,
        good[:2] + b"\x07" + good[3:],
    ):
        path = tmp_path / "bad.gz"
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            payload.unpack(path)
    (tmp_path / "padded.gz").write_bytes(good + bytes(512))
    assert payload.unpack(tmp_path / "padded.gz") == bytes(5000)


@BOTH
def test_no_more_is_unpacked_than_was_asked_for(tmp_path: Path, chosen: bool) -> None:
    """A bomb: it unpacks to a thousand times its size, and its header declares little."""
    path = tmp_path / "bomb.nii.gz"
    phantom.write_volume(path, phantom.voxels(), phantom.affine("RAS"))
    with gzip.open(path, "ab", compresslevel=9) as bomb:
        bomb.write(bytes(1 << 26))
    assert path.stat().st_size < 1 << 18
    np.testing.assert_array_equal(read_file(path, ReadOptions()).voxels[0], phantom.voxels())


@BOTH
@pytest.mark.parametrize("wrap", [zlib.compress, gzip.compress])
def test_streams_inside_files_are_verified(tmp_path: Path, chosen: bool, wrap: object) -> None:
    """NRRD and MetaImage: a zlib or gzip stream that begins somewhere in the file."""
    packed = wrap(bytes(range(256)) * 90)
    path = tmp_path / "inner.raw"
    path.write_bytes(b"header" + packed)
    payload.verify_packed(path, 6, None, 256 * 90)
    payload.verify_packed(path, 6, len(packed), 256 * 90)
    with pytest.raises(InputError, match="bytes declared"):
        payload.verify_packed(path, 6, None, 256 * 90 + 1)
    path.write_bytes(b"header" + packed[:-5])
    with pytest.raises(InputError, match="truncated"):
        payload.verify_packed(path, 6, None, 256 * 90)
    path.write_bytes(b"header" + packed[:20] + b"\xff" * 20 + packed[40:])
    with pytest.raises(InputError, match="damaged"):
        payload.verify_packed(path, 6, None, 256 * 90)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_are_the_files_that_nibabel_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, dtype: type
) -> None:
    """Unpacked, a mask packed by ISA-L, one by the standard library and nibabel's own file are equal to the byte."""
    shape = (37, 5, 70)
    values = np.random.default_rng(0).integers(0, 4, shape).astype(dtype)
    scan_values = (np.arange(np.prod(shape)).reshape(shape) % 900).astype(np.int16)
    source = phantom.write_volume(tmp_path / f"scan{suffix}", scan_values, np.eye(4))
    scan = read_file(source, ReadOptions())
    segmentation = Segmentation(values, tuple(Label(value, f"label {value}") for value in (1, 2, 3)), scan)
    written = {}
    for fast in (True, False):
        monkeypatch.setattr(gzip_file, "FAST", fast and gzip_file.FAST)
        written[fast] = gzip.decompress(write_mask(segmentation, tmp_path / f"{fast}{suffix}").read_bytes())
    image = nib.load(tmp_path / f"True{suffix}")
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)
    image.__class__(np.asarray(image.dataobj), None, header=image.header).to_filename(tmp_path / f"nibabel{suffix}")
    assert written[True] == written[False] == gzip.decompress((tmp_path / f"nibabel{suffix}").read_bytes())


@given(
    shape=st.lists(st.integers(0, 41), min_size=1, max_size=4),
    threads=st.booleans(),
    order=st.sampled_from("CF"),
    source=st.sampled_from("CF"),
    flip=st.booleans(),
    dtypes=st.sampled_from([(np.int16, np.float32), (np.uint8, np.uint8), (">i4", np.float32), (np.uint8, np.int32)]),
)
@settings(FEW, max_examples=100)
def test_a_copy_in_blocks_is_numpys_copy(
    monkeypatch: pytest.MonkeyPatch,
    shape: list[int],
    threads: bool,
    order: str,
    source: str,
    flip: bool,
    dtypes: tuple[type, type],
) -> None:
    """With blocks that several fit into the arrays, in one thread and in two."""
    for name, value in {"RUN": 19, "ACROSS": 4, "BLOCK": 160, "LARGE": 1 if threads else 1 << 24}.items():
        monkeypatch.setattr(memory_order, name, value)
    stored, wanted = dtypes
    values = np.random.default_rng(0).integers(0, 200, shape).astype(stored, order=source)
    values = values[::-1] if flip else values
    copy, expected = ordered_copy(values, wanted, order), np.array(values, wanted, order=order)
    np.testing.assert_array_equal(copy, expected)
    assert copy.dtype == expected.dtype
    assert copy.strides == expected.strides or copy.size == 0
    assert not np.shares_memory(copy, values)
