"""`--engine slurm`: the array that sbatch gets, and its tasks, without a cluster."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome, medseg_env
from PIL import Image

from medseg_cli.batch import slurm, slurm_settings
from medseg_cli.errors import UsageError

PRESET = ("--preset", "chest-xray-lungs")


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three pictures and a damaged one."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(values).save(folder / f"{number}.png")
    (folder / "broken.png").touch()
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder for PATH: `sbatch` keeps the script, `srun` runs what stands behind its own options."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f'#!/bin/sh\ncp "$1" {tmp_path}/script.sh\necho "Submitted batch job 4242"\n',
        "srun": '#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; shift; done\nexec "$@"\n',  # noqa: E501
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    return folder


def path_with(folder: Path) -> dict[str, str]:
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_the_array_says_what_was_asked(
    run_medseg: Callable[..., Outcome], scans: Path, cluster: Path, tmp_path: Path
) -> None:
    wanted = ("partition=gpu", "time=1:30:00", "gpus=1", "mem=32GB", "cpus=4", "account=lab", "reservation=night")
    options = [word for each in wanted for word in ("--slurm", each)]
    done = run_medseg(
        *("batch", scans, "-o", "out", *PRESET, "--engine", "slurm", "--shards", 2, *options, "--json"),
        env=path_with(cluster),
    )

    assert done.rc == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["jobs"] == ["4242_0", "4242_1"]
    assert "medseg report" in done.stderr
    script = (tmp_path / "script.sh").read_text()
    for flag in (
        *("partition=gpu", "time=90", "gpus-per-node=1", "mem=32GB", "cpus-per-task=4", "account=lab"),
        *("reservation=night", "array=0-1%2", "job-name=medseg"),
    ):
        assert f"#SBATCH --{flag}\n" in script
    assert not (tmp_path / "out" / "cases.csv").exists()


@pytest.mark.slow
def test_the_tasks_of_the_array_run_their_shards(
    run_medseg: Callable[..., Outcome], scans: Path, cluster: Path, tmp_path: Path, medseg_home: Path
) -> None:
    words = ("batch", scans, "-o", "out", *PRESET, "--engine", "slurm", "--shards", 2)
    assert run_medseg(*words, env=path_with(cluster)).rc == 0
    for task in range(2):
        numbers = {"SLURM_JOB_ID": f"{4243 + task}", "SLURM_ARRAY_JOB_ID": "4242", "SLURM_ARRAY_TASK_ID": str(task)}
        ran = subprocess.run(
            ["/bin/bash", tmp_path / "script.sh"],
            env=medseg_env(medseg_home, {**path_with(cluster), **numbers, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "cases.jsonl").read_text().splitlines()]
    assert {row["id"]: row["status"] == "failed" for row in rows} == {
        "0": False,
        "1": False,
        "2": False,
        "broken": True,
    }


@pytest.mark.slow
def test_tasks_on_this_machine_are_waited_for(run_medseg: Callable[..., Outcome], scans: Path, tmp_path: Path) -> None:
    done = run_medseg(
        *("batch", scans, "-o", "out", *PRESET, "--engine=slurm", "--shards=2", "--slurm=cluster=local"),
        *("--slurm", "time=5"),
    )
    assert done.rc == 8, done.stderr
    rows = (tmp_path / "out" / "cases.jsonl").read_text().splitlines()
    assert len(rows) == 4
    again = run_medseg("batch", scans, "-o", "out", *PRESET, "--json")
    assert again.rc == 8
    assert "3 of 4 cases are finished already" in again.stderr


def test_a_slurm_that_refuses_is_told_with_its_reason(
    run_medseg: Callable[..., Outcome], scans: Path, cluster: Path
) -> None:
    (cluster / "sbatch").write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: nowhere' >&2\nexit 1\n"
    )
    done = run_medseg(
        *("batch", scans, "-o", "out", *PRESET, "--engine", "slurm", "--shards", 2, "--slurm", "partition=nowhere"),
        env=path_with(cluster),
    )
    assert done.rc == 5
    assert "invalid partition specified: nowhere" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--engine", "slurm"), 2, "into how many tasks"),
        (("--shards", "2"), 2, "go with --engine slurm"),
        (("--engine", "slurm", "--shards", "2"), 5, "there is no Slurm here"),
        (("--engine", "slurm", "--shards", "2", "--slurm", "cluster=pbs"), 2, "cluster=pbs"),
        (("--engine", "slurm", "--shards", "2", "--slurm", "gpu"), 2, "is not KEY=VALUE"),
        (("--engine", "slurm", "--shards", "2", "--slurm", "time=soon", "--slurm", "cluster=local"), 2, "is no time"),
        (
            ("--engine", "slurm", "--shards", "2", "--shard", "1/2", "--slurm", "cluster=local"),
            2,
            "--shard does not go",
        ),
    ],
)
def test_what_cannot_be_submitted_is_said(
    in_process: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    scans: Path,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found, _, err = in_process("batch", scans, "-o", "out", *PRESET, *words)
    assert found == code
    assert message in err


def test_without_submitit_it_says_what_to_install(
    in_process: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, scans: Path
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    code, _, err = in_process("batch", scans, "-o", "out", *PRESET, "--engine", "slurm", "--shards", 2)
    assert code == 2
    assert "pip install 'medseg[slurm]'" in err


def test_a_task_is_the_same_command_with_its_own_shard() -> None:
    words = ["batch", "in", "-o", "out", "--engine", "slurm", "--shards=3", "--slurm", "mem=1", "--json", "--seed", "7"]
    assert slurm.shard_words(words, 2, 3) == ("batch", "in", "-o", "out", "--seed", "7", "--shard", "2/3")


def test_a_task_whose_shard_breaks_has_failed_and_one_with_failed_cases_has_not(tmp_path: Path) -> None:
    from medseg_cli.errors import MedsegError

    with pytest.raises(MedsegError, match="exit code 2"):
        slurm.ShardTask(("batch",), str(tmp_path))()


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("1:30:00", 90), ("2-00:00:30", 2881), ("0:45", 45)])
def test_times(text: str, expected: int) -> None:
    assert slurm_settings.minutes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("32", 32.0), ("32GB", 32.0), ("512M", 0.5), ("1T", 1024.0), ("8GiB", 8.0)]
)
def test_memory(text: str, expected: float) -> None:
    assert slurm_settings.gigabytes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "GB", "1..5G", "-3G"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(UsageError):
        slurm_settings.gigabytes(text)
