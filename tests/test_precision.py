"""`--precision auto`: the table of decisions, the self-check, where it is kept, and what the report says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bright_box
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from medseg_cli import device, pipelines, preset
from medseg_cli.device import Runtime
from medseg_cli.pipelines import precision
from medseg_cli.pipelines.precision import Probe, SelfCheck, settle
from medseg_cli.preset_format import HalfPrecision

CPU = torch.device("cpu")
MEASURED = {"metric": "Dice, mean", "fp32": 0.90, "bf16": 0.899, "data": "ten cases", "command": "medseg evaluate"}
LARGE = 86_000_000


def runtime(asked: str = "auto", deterministic: bool = False) -> Runtime:
    return Runtime(CPU, "fp32", 0, deterministic, asked)


def forbidden() -> torch.Tensor:
    raise AssertionError("nothing may be computed for this decision")


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that multiplies bf16."""
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: True)


@pytest.mark.parametrize(
    ("has_units", "deterministic", "bf16", "parameters", "because"),
    [
        (False, False, 0.899, LARGE, "has no bf16 units"),
        (True, True, 0.899, LARGE, "--deterministic"),
        (True, False, None, LARGE, "was not measured"),
        (True, False, 0.89, LARGE, "bf16 costs this preset 0.0100 of Dice, mean"),
        (True, False, 0.899, None, "no self-check"),
        (True, False, 0.899, 2_000_000, "2.0 million parameters"),
    ],
)
def test_fp32_without_computing_anything(
    monkeypatch: pytest.MonkeyPatch,
    has_units: bool,
    deterministic: bool,
    bf16: float | None,
    parameters: int | None,
    because: str,
) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: has_units)
    stated = None if bf16 is None else HalfPrecision(**{**MEASURED, "bf16": bf16})
    chosen = preset.find("sam-vit-b").model_copy(update={"bf16": stated})
    of = None if parameters is None else Probe(forbidden, parameters, "x")
    settled = settle(runtime(deterministic=deterministic), chosen, of)
    assert settled.precision == "fp32"
    assert because in settled.why


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(
    ("check", "used", "because"),
    [
        (SelfCheck(1.1e-2, 3.5), "bf16", "3.5 times faster, the encoder differs by 1.1e-02"),
        (SelfCheck(2.1e-2, 3.5), "fp32", "differs by 2.1e-02, more than 2e-02"),
        (SelfCheck(float("nan"), 3.5), "fp32", "differs by nan"),
        (SelfCheck(1.1e-2, 1.1), "fp32", "1.10 times as fast here"),
        (SelfCheck(1.1e-2, float("nan")), "fp32", "nan times as fast"),
    ],
)
def test_the_self_check_has_the_last_word(
    monkeypatch: pytest.MonkeyPatch, check: SelfCheck, used: str, because: str
) -> None:
    monkeypatch.setattr(precision, "measure", lambda *_: check)
    chosen = preset.find("sam-vit-b").model_copy(update={"bf16": HalfPrecision(**MEASURED)})
    settled = settle(runtime(), chosen, Probe(forbidden, LARGE, "x"))
    assert settled.precision == used
    assert because in settled.why


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize("asked", ["fp32", "bf16", ""])
def test_what_was_asked_for_is_never_questioned(asked: str) -> None:
    given = replace(runtime(asked), precision="bf16" if asked == "bf16" else "fp32")
    assert settle(given, preset.find("sam-vit-b"), Probe(forbidden, LARGE, "x")) is given


def test_a_self_check_measures_what_bf16_does_to_a_product() -> None:
    """A bf16 product of rounded operands: 2^-9 relative error of each operand at most, averaged over 64 terms."""
    torch.manual_seed(0)
    left, right = torch.randn(64, 64), torch.randn(64, 64)
    rounded = left.bfloat16() @ right.bfloat16()
    expected = float((rounded.float() - left @ right).norm() / (left @ right).norm())
    seen: list[torch.dtype] = []

    def encode() -> dict[str, list[torch.Tensor]]:
        product = torch.mm(left, right)
        seen.append(product.dtype)
        return {"image": [product]}

    check = precision.measure(runtime(), encode)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert check.difference == pytest.approx(expected, rel=1e-3)
    assert check.gain > 0


@pytest.mark.usefixtures("units")
def test_a_self_check_is_kept_per_network_and_a_broken_one_is_made_again(
    monkeypatch: pytest.MonkeyPatch, medseg_home: Path
) -> None:
    made = []
    monkeypatch.setattr(precision, "measure", lambda *_: made.append(1) or SelfCheck(0.01, 2.0))
    one, other = Probe(forbidden, LARGE, "one"), Probe(forbidden, LARGE, "other")
    assert precision.checked(runtime(), one) == precision.checked(runtime(), one) == SelfCheck(0.01, 2.0)
    assert len(made) == 1
    precision.checked(runtime(), other)
    assert len(made) == 2
    kept = sorted((medseg_home / "precision").iterdir())
    assert len(kept) == 2
    assert {json.loads(path.read_text())["what"]["network"] for path in kept} == {"one", "other"}
    for path in kept:
        path.write_text("{")
    precision.checked(runtime(), one)
    assert len(made) == 3


def test_the_embedded_presets_say_what_bf16_does_and_stay_in_fp32_for_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: True)
    monkeypatch.setattr(precision, "measure", forbidden)
    for name in ("hippocampus-mr", "chest-xray-lungs"):
        chosen = preset.find(name)
        assert chosen.bf16 is not None
        assert abs(chosen.bf16.loss) < precision.LOSS
        stated = {(each.metric, each.data): each.value for each in chosen.accuracy}
        assert stated[chosen.bf16.metric, chosen.bf16.data] == chosen.bf16.fp32
        settled = pipelines.build(chosen, device.select("cpu")).runtime
        assert (settled.precision, "million parameters" in settled.why) == ("fp32", True)


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """A scan with a bright bar, and a preset that says what bf16 does to it."""
    values = np.random.default_rng(0).uniform(90, 110, (40, 30, 6)).astype(np.float32)
    values[10:18, 12:18, 2:4] = 200
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    path = bright_box.preset(tmp_path, size=40).path
    assert path is not None
    facts = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(facts | {"bf16": MEASURED}))
    return tmp_path / "scan.nii.gz", path


def test_the_report_says_what_was_asked_used_and_why(
    monkeypatch: pytest.MonkeyPatch,
    in_process: Callable[..., tuple[int, str, str]],
    case: tuple[Path, Path],
    medseg_home: Path,
) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    monkeypatch.setattr(precision, "has_bf16_units", lambda _: True)
    monkeypatch.setattr(precision, "PARAMETERS", 0)
    monkeypatch.setattr(precision, "TOLERANCE", 1.0)
    monkeypatch.setattr(precision, "GAIN", 0.0)

    def run(*words: str) -> tuple[dict, str]:
        scan, chosen = case
        line = ("segment", scan, "--preset", chosen, "--box", "8,10,2,20,20,3", "-o", "m.nii.gz", "--overwrite")
        code, _, told = in_process(*line, "--device", "cpu", *words)
        assert code == 0, told
        report = json.loads(Path("m.json").read_text())
        assert report["run"]["precision"] == report["precision"]["used"]
        return report["precision"], told

    said, told = run()
    assert (said["asked"], said["used"]) == ("auto", "bf16")
    assert said["why"].startswith("self-check: ")
    assert f"bf16 ({said['why']})" in told
    assert len(list((medseg_home / "precision").iterdir())) == 1
    assert run()[0] == said
    assert run("--precision", "fp32")[0] == {"asked": "fp32", "used": "fp32", "why": None}
    assert run("--precision", "bf16")[0] == {"asked": "bf16", "used": "bf16", "why": None}
    monkeypatch.setattr(precision, "PARAMETERS", 10**9)
    said, told = run()
    assert (said["asked"], said["used"]) == ("auto", "fp32")
    assert "million parameters" in said["why"]
    assert "million parameters" not in told


def test_doctor_says_what_auto_comes_to(in_process: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = in_process("doctor", "--json")
    (found,) = [check for check in json.loads(out)["checks"] if check["name"] == "precision"]
    assert found["status"] == "ok"
    assert "auto is" in found["found"]
