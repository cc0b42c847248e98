"""The table of `docs/exit-codes.md`, row by row, on processes of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import region_growing
from conftest import medseg_env

from medseg_cli import errors
from medseg_cli.errors import InputError
from medseg_cli.writers import outputs

posix = pytest.mark.skipif(os.name != "posix", reason="signals and resource limits of POSIX")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).normal(100, 2, (30, 30, 20)).astype(np.float32)
    voxels[10:18, 10:16, 8:12] = 200
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def start(tmp_path: Path, medseg_home: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `medseg` with the fifth pipeline in a process of its own."""

    def run(*words: object, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, region_growing.__file__, *map(str, words)],
            env=medseg_env(medseg_home, {}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return run


@contextmanager
def nothing_new(folder: Path) -> Iterator[None]:
    """The block leaves every file under `folder` as it was, and no other one."""

    def state() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = state()
    yield
    after = state()
    assert after.keys() == before.keys()
    assert after == before


def test_the_table_in_the_documents_is_the_one_in_the_code(root: Path) -> None:
    table = dict(re.findall(r"^\| (\d+) \| `?(\w*)`? ?\|", (root / "docs/exit-codes.md").read_text(), re.MULTILINE))
    assert set(table) == {"0", "1", "2", "3", "4", "5", "8", "130"}
    for code, name in table.items():
        if name:
            assert getattr(errors, name).exit_code == int(code)


def test_0_done(scan: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    preset = region_growing.write_preset(tmp_path)
    process = start("segment", scan, "m.nii.gz", "-p", preset, "--point", "12,12,10")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, ""), err
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["start", "model", "read", "segment", "write", "blob"]
    assert lines[-1].endswith("wrote m.nii.gz, m.json, m.png")


def test_2_usage(run_medseg: Callable[..., Any]) -> None:
    done = run_medseg("segment", "--frobnicate")
    assert (done.rc, done.stdout) == (2, "")
    assert done.stderr.startswith("error: No such option: --frobnicate")


def test_3_input(run_medseg: Callable[..., Any]) -> None:
    done = run_medseg("segment", "no-such-scan.nii", "m.nii", "-p", "hippocampus-mr", "--point", "1,1,1")
    assert (done.rc, done.stderr.splitlines()[0]) == (3, "error: there is no scan no-such-scan.nii")


def test_4_preset_and_weights(scan: Path, run_medseg: Callable[..., Any]) -> None:
    words = ("segment", scan, "m.nii", "--point", "1,1,1", "--preset")
    unknown = run_medseg(*words, "hippocampus-m")
    assert unknown.rc == 4
    assert "did you mean 'hippocampus-mr'" in unknown.stderr
    missing = run_medseg(*words, "sam3d-kits")
    assert missing.rc == 4, missing.stderr
    assert "medseg weights " in missing.stderr
    assert not (scan.parent / "m.nii").exists()


@posix
def test_130_leaves_old_outputs_alone_and_nothing_new(
    scan: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    preset = region_growing.write_preset(tmp_path, trouble="sleep")
    for name in ("m.nii.gz", "m.json"):
        (tmp_path / name).write_text("of an earlier run")
    with nothing_new(tmp_path):
        process = start("segment", scan, "m.nii.gz", "-p", preset, "--point", "12,12,10", "--overwrite")
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("read:"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err


@posix
def test_3_when_the_disk_takes_no_more(scan: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    preset = region_growing.write_preset(tmp_path)
    with nothing_new(tmp_path):
        process = start("segment", scan, "m.nii.gz", "-p", preset, "--point", "12,12,10", preexec_fn=limit)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "cannot write" in err
    assert ".medseg-" not in err


def plan(folder: Path) -> outputs.Outputs:
    return outputs.plan(Path("scan.nii"), str(folder / "m.nii"))


def write_all(folder: Path, then: Callable[[], None], *, overwrite: bool = False) -> None:
    """Write the three outputs with "new" in them, then do `then` before they are moved."""
    with outputs.staged(plan(folder), overwrite=overwrite) as places:
        for path in places.files:
            path.write_text("new")
        then()


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, OSError, ValueError, MemoryError])
def test_whatever_happens_while_writing_leaves_nothing(tmp_path: Path, trouble: type[BaseException]) -> None:
    def fail() -> None:
        raise trouble

    (tmp_path / "m.json").write_text("old")
    with nothing_new(tmp_path), pytest.raises(InputError if trouble is OSError else trouble):
        write_all(tmp_path, fail, overwrite=True)


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        write_all(tmp_path, lambda: (tmp_path / "m.nii").write_text("somebody else's") and None)
    assert [(path.name, path.read_text()) for path in tmp_path.glob("m.*")] == [("m.nii", "somebody else's")]


@posix
def test_ctrl_c_during_the_renames_waits_for_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return real(self, target)

    with pytest.raises(KeyboardInterrupt):
        write_all(tmp_path, lambda: monkeypatch.setattr(Path, "replace", replace))
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.glob("m.*")) == ["m.json", "m.nii", "m.png"]


def test_a_reader_that_leaves_early_is_no_crash(run_medseg: Callable[..., Any], root: Path) -> None:
    command = f"{sys.executable} -m medseg_cli presets list --json | head -c 1"
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, shell=True, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_help_and_version_are_quick_and_import_nothing_heavy(run_medseg: Callable[..., Any], root: Path) -> None:
    done = run_medseg("--version")
    assert done.rc == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["medseg", "torch", "triton", "cuda", "python"]
    code = (
        "import sys; from medseg_cli.app import app, main; main(['segment', '--help']); main(['--version']); "
        "heavy = {'torch', 'monai', 'nibabel', 'SimpleITK', 'pydicom', 'numpy', 'scipy'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, f"heavy modules at start: {loaded.stderr}"


@posix
def test_help_takes_less_than_three_tenths_of_a_second(root: Path) -> None:
    import resource

    def cost() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "medseg_cli", "--help"], cwd=root, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, the best of several: a busy machine must not decide.
    assert min(cost() for _ in range(5)) < 0.3
