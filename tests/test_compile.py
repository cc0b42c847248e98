"""`segment --compile`: the same mask, an artefact that the next run uses, and refusals in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import bright_box
import nibabel as nib
import numpy as np
import pytest
import yaml
from tiny_sam import SMALL, save, upstream

from medseg_cli import pipelines
from medseg_cli import preset as presets

Medseg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    values = np.random.default_rng(7).normal(0, 30, (24, 20, 4)).astype(np.int16)
    values[6:15, 5:14, 1:3] += 200
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 3.0, 1.0])), path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A preset of SAM with a tiny checkpoint beside it."""
    save(upstream(**SMALL), tmp_path / "tiny.pth")
    facts = presets.find("sam-vit-b").model_dump(mode="json", exclude_none=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(facts | {"name": "tiny", "weights": {"file": "tiny.pth"}}))
    return path


def test_a_network_without_blocks_is_refused(
    monkeypatch: pytest.MonkeyPatch, in_process: Medseg, tmp_path: Path, scan: Path
) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    chosen = bright_box.preset(tmp_path, size=40).path
    code, _, told = in_process("segment", scan, "-o", "m.nii.gz", "-p", chosen, "--box", "4,4,1,16,15,2", "--compile")
    assert code == 2, told
    assert "no encoder of blocks" in told
    assert "leave --compile out" in told
    assert not Path("m.nii.gz").exists()


def test_without_a_compiler_the_error_says_what_to_install(in_process: Medseg, scan: Path, tiny: Path) -> None:
    from torch._inductor import config

    line = ("segment", scan, "-o", "m.nii.gz", "-p", tiny, "--box", "4,4,1,16,15,2", "--device", "cpu", "--compile")
    with config.patch({"cpp.cxx": ("/nowhere/c++",)}):
        code, _, told = in_process(*line)
    assert code == 5, told
    assert "needs a C++ compiler" in told
    assert "install g++" in told
    assert not Path("m.nii.gz").exists()


def test_what_fails_inside_the_compiler_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, in_process: Medseg, scan: Path, tiny: Path
) -> None:
    """Planted: torch's compiler gives up at the first block."""
    import torch
    from torch._dynamo.exc import Unsupported

    def gives_up(self: torch.nn.Module, *_: object, **__: object) -> None:
        def call(*_: object, **__: object) -> None:
            raise Unsupported("this operation is not known\nwith many more lines")

        self._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", gives_up)
    line = ("segment", scan, "-o", "m.nii.gz", "-p", tiny, "--box", "4,4,1,16,15,2", "--device", "cpu", "--compile")
    code, _, told = in_process(*line)
    assert code == 5, told
    assert "--compile failed: this operation is not known" in told
    assert "with many more lines" not in told


@pytest.mark.slow
def test_the_second_run_uses_what_the_first_compiled(
    run_medseg: Callable, scan: Path, tiny: Path, tmp_path: Path, medseg_home: Path
) -> None:
    """Each run has an empty cache of torch's own, so that only our artefact can help the second."""

    def run(name: str, *words: str) -> tuple[np.ndarray, dict]:
        box = ("--box", "4,4,1,16,15,2", "--device", "cpu", "--no-preview")
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"cache-{name}")}
        done = run_medseg("segment", scan, "-o", f"{name}.nii.gz", "-p", tiny, *box, *words, env=cache, timeout=900)
        assert done.rc == 0, done.stderr
        report = json.loads((tmp_path / f"{name}.json").read_text())
        return np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj), report["compile"]

    plain, said = run("plain")
    assert said == {"compiled": False, "blocks": 0, "artefact": None}
    assert not (medseg_home / "compiled").exists()
    first, said = run("first", "--compile")
    assert said == {"compiled": True, "blocks": 2, "artefact": "made"}
    (artefact,) = (medseg_home / "compiled").iterdir()
    before = artefact.stat().st_mtime_ns
    second, said = run("second", "--compile")
    assert said == {"compiled": True, "blocks": 2, "artefact": "used"}
    assert artefact.stat().st_mtime_ns == before
    assert plain.any()
    for compiled in (first, second):
        assert np.mean(compiled != plain) < 1e-3
