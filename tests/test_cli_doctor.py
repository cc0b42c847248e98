"""`medseg doctor`: every finding is tried, every problem comes with advice, and the exit code says which kind it is."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medseg_cli import diagnosis
from medseg_cli.app import main
from medseg_cli.diagnosis import Check
from medseg_cli.errors import DeviceError, ModelError


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A folder of shipped presets that a test may damage: one preset with two bytes of weights that fit their hash."""
    import hashlib

    from medseg_cli import preset

    text = (root / "presets" / "hippocampus-mr.yaml").read_text(encoding="utf-8")
    folder = tmp_path / "shipped"
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "hippocampus-mr.safetensors").write_bytes(b"ab")
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("sha256:")]
    at = next(i for i, line in enumerate(kept) if line.lstrip().startswith("file:"))
    kept.insert(at + 1, f"  sha256: {hashlib.sha256(b'ab').hexdigest()}")
    (folder / "hippocampus-mr.yaml").write_text("\n".join(kept) + "\n", encoding="utf-8")
    monkeypatch.setattr(preset, "shipped_folder", lambda: folder)
    return folder


def test_json_is_all_of_stdout_and_the_exit_code_follows_it(run_medseg):
    done = run_medseg("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.rc == found["exit_code"]
    assert found["usable"] == (done.rc == 0)
    names = [check["name"] for check in found["checks"]]
    assert {"python", "torch", "cpu", "kernels", "MONAI", "SimpleITK", "dicom", "memory", "cache"} <= set(names)
    assert "preset hippocampus-mr" in names
    for check in found["checks"]:
        assert (check["status"] == "fail") == (check["exit_code"] != 0), check
        assert check["status"] == "ok" or check["advice"], f"{check['name']}: a problem without advice"


def test_a_failure_does_not_end_the_list_and_sets_the_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: Path
):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    monkeypatch.setenv("MEDSEG_HOME", str(in_the_way))
    monkeypatch.setattr(diagnosis, "LIBRARIES", {})
    (shipped / "weights" / "hippocampus-mr.safetensors").unlink()
    assert main(["doctor"]) == 3
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail  cache"))
    assert "set MEDSEG_HOME" in lines[at + 1]
    assert any(line.startswith("fail  preset hippocampus-mr") for line in lines[at + 2 :])


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [("2.9.1+cu128", "warn", "conv3d"), ("2.8.0", "warn", "older"), ("2.10.0", "ok", ""), ("3.0.0a1", "ok", "")],
)
def test_torch_versions(monkeypatch: pytest.MonkeyPatch, version: str, status: str, words: str):
    monkeypatch.setattr(torch, "__version__", version)
    check = diagnosis.torch_library()
    assert check.status == status
    assert words in check.advice


def test_a_missing_library_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diagnosis, "LIBRARIES", {"SimpleITK": "SimpleITK", "pydicom": "pydicom"})
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    broken = [check for check in diagnosis.libraries() if check.status != "ok"]
    assert [(check.name, check.status, check.advice) for check in broken] == [
        ("SimpleITK", "fail", "pip install SimpleITK")
    ]


def test_without_triton_linux_warns_and_others_do_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(diagnosis.platform, "system", lambda: "Linux")
    assert diagnosis.triton().status == "warn"
    monkeypatch.setattr(diagnosis.platform, "system", lambda: "Darwin")
    assert diagnosis.triton().status == "ok"


def test_the_cpu_convolves():
    (cpu,) = [check for check in diagnosis.devices() if check.name == "cpu"]
    assert cpu.status == "ok"


def test_a_device_that_computes_nonsense_fails_with_5(monkeypatch: pytest.MonkeyPatch):
    """The first convolution is the device's, the second the expectation."""
    convolve, calls = torch.nn.functional.conv3d, []

    def wrong_once(*args: torch.Tensor) -> torch.Tensor:
        calls.append(args)
        return convolve(*args) + (1.0 if len(calls) == 1 else 0.0)

    monkeypatch.setattr(torch.nn.functional, "conv3d", wrong_once)
    check = next(iter(diagnosis.devices()))
    assert (check.status, check.exit_code) == ("fail", DeviceError.exit_code)


def test_a_device_that_raises_fails_with_5(monkeypatch: pytest.MonkeyPatch):
    def raises(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available\nand more lines")

    monkeypatch.setattr(torch.nn.functional, "conv3d", raises)
    check = next(iter(diagnosis.devices()))
    assert (check.status, check.exit_code) == ("fail", DeviceError.exit_code)
    assert check.found.endswith("no kernel image is available")


@pytest.mark.parametrize("op", ["adapter", "attention", "conv3d", "relpos_attention", "window_attention"])
@pytest.mark.parametrize(("fault", "said"), [(1.01, "off by 1.0e-02"), (float("nan"), "off by inf")])
def test_kernels_that_disagree_with_their_formula_fail(monkeypatch: pytest.MonkeyPatch, op: str, fault, said) -> None:
    selfcheck = import_module("medseg_kernels.selfcheck")
    right = getattr(selfcheck, op)
    monkeypatch.setattr(selfcheck, op, lambda *tensors: right(*tensors) * fault)
    check = diagnosis.kernels()
    assert check.status == "fail"
    assert check.found == f"{op} is {said} on {'cuda' if torch.cuda.is_available() else 'cpu'}"


def test_a_variable_that_medseg_does_not_read_is_named(monkeypatch: pytest.MonkeyPatch, medseg_home: Path):
    assert diagnosis.variables() == Check("variables", "ok", f"MEDSEG_HOME={medseg_home}")
    monkeypatch.setenv("MEDSEG_OFLINE", "1")
    check = diagnosis.variables()
    assert check.status == "warn"
    assert "MEDSEG_OFLINE" in check.advice


@pytest.mark.parametrize(("value", "status"), [("reference", "warn"), ("triton", "ok"), ("fast", "fail")])
def test_the_choice_of_kernels_is_checked(monkeypatch: pytest.MonkeyPatch, value: str, status: str):
    monkeypatch.setenv("MEDSEG_KERNELS", value)
    check = diagnosis.kernels()
    assert check.status == status
    assert ("use triton or reference" in check.advice) == (status == "fail")


def test_doctor_knows_every_variable_that_the_code_reads(root: Path):
    reads = re.compile(r"(?:environ(?:\.get)?|getenv)[\[(]\s*\"(MEDSEG_[A-Z_]+)\"")
    sources = [*(root / "medseg_cli").rglob("*.py"), *(root / "kernels").rglob("*.py")]
    assert {name for path in sources for name in reads.findall(path.read_text("utf-8"))} == diagnosis.VARIABLES


@pytest.mark.parametrize(("free", "status"), [(64 * 2**30, "ok"), (2**30, "warn")])
def test_memory_and_disk_that_run_low_warn(monkeypatch: pytest.MonkeyPatch, free: int, status: str):
    from medseg_cli import device

    monkeypatch.setattr(device, "host_memory", lambda: (free, 64 * 2**30))
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert diagnosis.memory().status == status
    assert diagnosis.cache().status == status


def test_dicom_decoders_are_counted_and_the_missing_ones_named(monkeypatch: pytest.MonkeyPatch):
    from pydicom.pixels import decoders

    before = diagnosis.dicom_decoders()
    assert before.status == "ok"
    absent = SimpleNamespace(UID=decoders.JPEGLSLosslessDecoder.UID, is_available=False)
    monkeypatch.setattr(decoders, "JPEGLSLosslessDecoder", absent)
    assert "JPEG-LS Lossless" in diagnosis.dicom_decoders().found


def test_shipped_preset_with_its_weights_is_ok(shipped: Path):
    (check,) = diagnosis.presets()
    assert (check.name, check.status) == ("preset hippocampus-mr", "ok"), check


@pytest.mark.parametrize("damage", ["changed", "gone", "invalid"])
def test_a_damaged_shipped_preset_fails_with_4(shipped: Path, damage: str):
    weights = shipped / "weights" / "hippocampus-mr.safetensors"
    if damage == "changed":
        weights.write_bytes(b"ax")
    elif damage == "gone":
        weights.unlink()
    else:
        (shipped / "hippocampus-mr.yaml").write_text("name: hippocampus-mr\n")
    (check,) = diagnosis.presets()
    assert (check.status, check.exit_code) == ("fail", ModelError.exit_code)
    assert check.advice


def test_a_users_own_broken_preset_only_warns(shipped: Path, medseg_home: Path):
    (medseg_home / "presets").mkdir(parents=True)
    (medseg_home / "presets" / "mine.yaml").write_text("name: mine\n")
    found = {check.name: check for check in diagnosis.presets()}
    assert found["preset hippocampus-mr"].status == "ok"
    assert (found["preset mine"].status, found["preset mine"].exit_code) == ("warn", 0)
    assert "mine.yaml" in found["preset mine"].found


def test_weights_that_nobody_pulled_warn_with_the_command(root: Path, medseg_home: Path):
    found = {check.name: check for check in diagnosis.presets()}
    check = found["preset sam3d-kits"]
    assert check.status == "warn"
    assert "medseg weights" in check.advice
