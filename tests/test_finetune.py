"""`medseg finetune` as it is called: killed and resumed, in two processes, refused where it must be."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from balls import write_balls, write_tiny
from conftest import medseg_env
from PIL import Image
from rich.console import Console

from medseg_cli import preset

SHORT = ("--start", "scratch", "--steps", "2", "--batch-size", "2", "--validate-every", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six volumes of 20³ voxels."""
    return write_balls(tmp_path_factory.mktemp("data") / "Balls")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.yaml")


def sha256(run: Path) -> str:
    return hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def begin(home: Path, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medseg_cli", "finetune", *map(str, arguments)]
    return subprocess.Popen(command, env=medseg_env(home, {}), cwd=folder, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the condition holds; the process must still run then."""
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < limit
        time.sleep(0.005)


def test_a_run_that_is_killed_gives_the_same_bits(in_process, medseg_home: Path, dataset: Path, tiny: Path) -> None:
    """kill -9 in the middle, then SIGTERM after a resume, then to the end: the weights are those of a straight run."""
    folder = tiny.parent
    options = ("--preset", tiny, "--start", "scratch", "--steps", "40", "--batch-size", "2", "--validate-every", "4")
    options = (*options, "--device", "cpu", "--tracker", "none", "--seed", "3")
    code, _, err = in_process("finetune", dataset, "-o", "straight", *options)
    assert code == 0, err

    broken = folder / "broken"
    process = begin(medseg_home, folder, dataset, "-o", "broken", *options)
    wait_for((broken / "log.csv").is_file, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (broken / "weights.safetensors").exists()
    killed_after = len(rows(broken))

    process = begin(medseg_home, folder, "--resume", "broken")
    wait_for(lambda: len(rows(broken)) > killed_after + 1, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resumed after step" in err
    assert "of 40; the checkpoint is written" in err
    assert not (broken / "weights.safetensors").exists()

    code, _, err = in_process("finetune", "--resume", "broken")
    assert code == 0, err
    assert sha256(broken) == sha256(folder / "straight")
    for one, two in zip(rows(broken), rows(folder / "straight"), strict=True):
        assert {**one, "seconds": ""} == {**two, "seconds": ""}
    # A run that is done stays as it is.
    code, _, err = in_process("finetune", "--resume", "broken")
    assert code == 0, err
    assert sha256(broken) == sha256(folder / "straight")


def torchrun(home: Path, folder: Path, *arguments: object) -> str:
    """Two processes on this machine; what they say on stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", port, *map(str, arguments)]
    env = medseg_env(home, {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"})
    env["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_two_processes_learn_what_one_learns(medseg_home: Path, tmp_path: Path) -> None:
    """Each draws its part of every batch, gradients and validations are put together: all as in one process."""
    import two_processes

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    two_processes.main(tmp_path / "one")
    torchrun(medseg_home, tmp_path, two_processes.__file__, "two")
    alone = json.loads((tmp_path / "one" / "seen-0.json").read_text())
    first, second = (json.loads((tmp_path / "two" / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    assert [one + two for one, two in zip(first["seen"], second["seen"], strict=True)] == alone["seen"]
    for shared in (first, second):
        assert shared["weight"][0] == pytest.approx(alone["weight"][0], abs=1e-6)
        assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        assert shared["dice"] == pytest.approx(alone["dice"], rel=1e-5)
    # Statistics of a batch are each process's own, yet all of them validate and keep the same network.
    assert first["statistics"] == second["statistics"] != [0.0] * 3
    # One of them writes.
    assert (tmp_path / "two" / "log.csv").read_text().count("\n") == 3


def test_torchrun_trains_and_one_process_talks(medseg_home: Path, dataset: Path, tiny: Path) -> None:
    options = ("--preset", tiny, "--begin", "scratch", "--steps", "2", "--batch-size", "2", "--device", "cpu")
    err = torchrun(medseg_home, tiny.parent, "-m", "medseg_cli", "finetune", dataset, "-o", "two", *options)
    assert err.count("step 2: loss") == 1
    assert err.count("done: medseg segment") == 1
    assert (tiny.parent / "two" / "command.txt").read_text().startswith("torchrun --nproc-per-node 2 -m medseg_cli")
    assert preset.find(tiny.parent / "two").weights_sha256 == sha256(tiny.parent / "two")


def test_the_run_folder_tells_everything(in_process, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    code, _, err = in_process("finetune", dataset, "-o", "run", "--preset", tiny, *SHORT, "--log-json", "log.jsonl")
    assert code == 0, err
    run = tmp_path / "run"
    command = (run / "command.txt").read_text()
    assert command.startswith(f"medseg finetune {dataset} -o run")
    card = (run / "card.md").read_text()
    for words in ("Balls: 4 cases trained, 1 validated, 1 are held back", "random weights", "seed 0", command.strip()):
        assert words in card
    dice = rows(run)[-1]["dice"]
    assert f"Dice {float(dice):.4f}" in " ".join(card.split())
    with Image.open(run / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 600
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    facts = json.loads((run / "run.json").read_text())
    assert facts["plan"]["steps"] == 2
    assert facts["versions"]["medseg"]
    assert preset.find(run).weights_sha256 == sha256(run)
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["logger"] == "medseg.finetune"]
    assert [record["step"] for record in steps] == [2]
    assert steps[0]["dice"] == pytest.approx(float(dice))


def test_tensorboard_gets_the_curves(in_process, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert in_process("finetune", dataset, "-o", "run", "--preset", tiny, *SHORT)[0] == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["tensors"] + events.Tags()["scalars"]
    assert {"loss/step", "loss/train", "dice/validation", "learning_rate"} <= set(tags)


class Recorded:
    """What a fake tracker was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, (args, kwargs)))
            return self

        return call

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def test_trackers_stay_on_this_machine_unless_asked(
    in_process, dataset: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    told = {name: Recorded() for name in ("mlflow", "wandb")}
    for name, recorded in told.items():
        module: Any = types.ModuleType(name)
        module.__getattr__ = recorded.__getattr__
        monkeypatch.setitem(sys.modules, name, module)
        code, _, err = in_process("finetune", dataset, "-o", name, "--preset", tiny, *SHORT, "--tracker", name)
        assert code == 0, err
    calls = dict(told["mlflow"].calls)
    assert calls["set_tracking_uri"][0][0] == (tmp_path / "mlflow" / "mlflow").as_uri()
    assert "dice.validation" in calls["log_metrics"][0][0]
    assert calls["log_params"][0][0]["dataset"] == "Balls"
    calls = dict(told["wandb"].calls)
    assert calls["init"][1]["mode"] == "offline"
    assert calls["log"][1] == {"step": 2}
    assert "finish" in calls


def test_a_tracker_that_is_not_installed_is_said(
    in_process, dataset: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = in_process("finetune", dataset, "-o", "run", "--preset", tiny, *SHORT, "--tracker", "wandb")
    assert code == 2
    assert "--tracker wandb needs wandb" in err
    assert "pip install 'medseg-cli[wandb]'" in err


def test_resume_takes_its_plan_from_the_run(in_process, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    code, _, err = in_process("finetune", dataset, "-o", "run", "--preset", tiny, *SHORT)
    assert code == 0, err
    code, _, err = in_process("finetune", "--resume", "run", "--steps", "9", "--seed", "1")
    assert code == 2
    assert "--steps, --seed cannot change that" in err
    code, _, err = in_process("finetune", "--resume", "nowhere")
    assert code == 3
    assert "nowhere holds no run" in err
    # The dataset moved: said where it is, and it may have another name.
    moved = tmp_path / "elsewhere"
    shutil.copytree(dataset, moved)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["dataset"] = "/gone/Balls"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    code, _, err = in_process("finetune", "--resume", "run")
    assert code == 3
    assert "/gone/Balls, the dataset of run, does not exist" in err
    before = sha256(tmp_path / "run")
    code, _, err = in_process("finetune", moved, "--resume", "run")
    assert code == 0, err
    assert sha256(tmp_path / "run") == before
    # Killed before its first checkpoint: it begins anew, as it was asked to.
    record |= {"deterministic": True, "command": "medseg finetune as it was typed"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    for name in ("last.pt", "previous.pt", "preset.yaml", "weights.safetensors"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    code, _, err = in_process("finetune", moved, "--resume", "run")
    assert code == 0, err
    assert sha256(tmp_path / "run") == before
    assert torch.are_deterministic_algorithms_enabled()
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == record
    assert (record["accelerator"], "as it was typed" in (tmp_path / "run" / "card.md").read_text()) == ("cpu", True)
    # A record that nobody can have written.
    for wrong in ({**record, "tracker": "other"}, {**record, "plan": {"steps": "many"}}, [], None):
        (tmp_path / "run" / "run.json").write_text(json.dumps(wrong))
        code, _, err = in_process("finetune", moved, "--resume", "run")
        assert (code, "run.json cannot be read" in " ".join(err.split())) == (4, True), err
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    # Its preset was changed meanwhile.
    tiny.write_text(tiny.read_text().replace("prompt_mlp_dim: 16", "prompt_mlp_dim: 8"))
    code, _, err = in_process("finetune", moved, "--resume", "run")
    assert code == 4
    assert "is not what it was when run was begun" in err


def test_what_cannot_begin_says_why(in_process, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "preset.yaml").write_text("")
    (tmp_path / "two.json").write_text(json.dumps([{"train": ["ball_0"], "val": ["ball_9"]}]))
    empty = tmp_path / "empty"
    empty.mkdir()
    new = ("finetune", dataset, "--preset", tiny, *SHORT)
    for arguments, code, words in (
        (("finetune", dataset), 2, "a new run needs DATASET, -o RUN and --preset NAME"),
        ((*new, "-o", "file/run"), 3, "cannot write the run folder file/run"),
        ((*new, "-o", "/sys/medseg-run"), 3, "cannot write the run folder /sys/medseg-run"),
        ((*new, "-o", "used"), 3, "used holds a preset.yaml, and no checkpoint that belongs to it"),
        (("finetune", empty, "-o", "r", "--preset", tiny, *SHORT), 3, "empty holds no dataset.json"),
        ((*new, "-o", "none", "--epochs", "2"), 2, "--epochs contradicts --steps"),
        ((*new, "-o", "r", "--feature-cache", "on"), 2, "--feature-cache on is for methods that see pictures"),
        ((*new, "-o", "none", "--preset", "dynunet-baseline", "--objects", "together"), 2, "tells every label apart"),
        ((*new, "-o", "r", "--workers", "many"), 2, "--workers 'many' is neither auto nor a whole number from 0 on"),
        ((*new, "-o", "r", "--amp", "--precision", "fp32"), 2, "--amp contradicts --precision fp32"),
        ((*new, "-o", "r", "--splits", "two.json"), 3, "ball_9"),
        ((*new, "-o", "r", "--fold", "1"), 3, "no fold 1"),
    ):
        found, _, err = in_process(*arguments)
        assert (found, words in " ".join(err.split())) == (code, True), err
        assert not (tmp_path / "r" / "last.pt").exists()
        assert not (tmp_path / "none").exists()


def test_one_case_cannot_be_trained_on(in_process, tiny: Path, tmp_path: Path) -> None:
    write_balls(tmp_path / "one", count=1)
    code, _, err = in_process("finetune", "one", "-o", "run", "--preset", tiny, *SHORT)
    assert code == 3
    assert "1 case cannot be split" in err


def test_the_same_command_goes_on_and_another_one_does_not(
    in_process, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    new = ("finetune", dataset, "-o", "run", "--preset", tiny, *SHORT)
    assert in_process(*new)[0] == 0
    before = sha256(tmp_path / "run")
    code, _, err = in_process(*new, "--deterministic")
    assert code == 0
    assert "resumed after step 2 of 2" in err
    assert "--deterministic was False when the run was begun, and is True now" in " ".join(err.split())
    for change, words in (
        (("--peft", "decoder"), "another peft"),
        (("--objects", "apart"), "another objects"),
        (("--seed", "5"), "another train"),
        (("--steps", "3"), "another plan: steps 2, now 3"),
    ):
        code, _, err = in_process(*new, *change)
        assert (code, words in " ".join(err.split())) == (4, True), err
    assert sha256(tmp_path / "run") == before


def test_a_presets_name_goes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg_cli.pipelines.choices import Choices
    from medseg_cli.training import job
    from medseg_cli.training.plan import Wishes

    monkeypatch.chdir(tmp_path)
    (tmp_path / "hippocampus-mr").mkdir()
    write_tiny(tmp_path / "own.yaml")
    for name, named in (("hippocampus-mr", "hippocampus-mr"), ("own.yaml", str(tmp_path / "own.yaml"))):
        todo = job.new(Path("hippocampus-mr"), name, True, Wishes(), Path("run"), Choices(), None, None)
        assert (todo.preset, todo.start, todo.start_sha256) == (named, None, "")


def test_a_terminal_shows_where_the_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg_cli.commands import finetune_display
    from medseg_cli.training.plan import Progress, Stepped

    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(finetune_display, "stderr", lambda: terminal)
    # A folder may be called what Rich takes for markup, and Python for a field.
    with finetune_display.Display("normal", "balls [/x] {y}") as display:
        for step, loss in ((1, 0.7), (2, 0.5)):
            display.stepped(Stepped(step, 8, 4, loss, 1e-3, 0.5))
        display.validated(Progress(2, 0.6, 0.25, 1e-3, 1.0))
        display.stepped(Stepped(3, 8, 4, 0.3, 1e-3, 0.5))
    text = shown.getvalue()
    assert "step 2: loss 0.6000, validation Dice 0.2500, learning rate 1.00e-03, 1 s" in text
    last = text[text.rindex("balls [/x] {y}") :]
    # The mean loss of the steps so far; 12 samples in 1.5 s.
    for words in ("3/8", "loss 0.5000", "Dice 0.2500", "8.0 samples/s", "GiB", "ETA"):
        assert words in last


def test_two_runs_cannot_share_a_folder(in_process, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    import filelock

    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run" / ".lock"):
        code, _, err = in_process("finetune", dataset, "-o", "run", "--preset", tiny, *SHORT)
    assert code == 3
    assert "another process is training in run" in err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said(in_process, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    code, _, err = in_process("finetune", dataset, "-o", "run", "--preset", tiny, *SHORT)
    assert code == 3
    assert "cannot write the run folder run: permission denied" in err


def test_splits_amp_and_auto_reach_the_plan(in_process, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    splits = [{"train": ["ball_0"], "val": ["ball_1"]}, {"train": ["ball_2", "ball_3", "ball_4"], "val": ["ball_5"]}]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    options = [
        "--preset",
        tiny,
        "--start",
        "scratch",
        "--device",
        "cpu",
        "--tracker",
        "none",
        "--splits",
        "splits.json",
    ]
    options += ["--fold", "1", "--epochs", "2", "--batch-size", "auto", "--amp", "--patience", "5", "--accumulate", "2"]
    code, _, err = in_process("finetune", dataset, "-o", "run", *options)
    assert code == 0, err
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (split["train"], split["validation"], split["test"]) == (["ball_2", "ball_3", "ball_4"], ["ball_5"], [])
    plan = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert plan["precision"] == "bf16"
    assert plan["batch_size"] in (1, 2)
    assert plan["steps"] == 2 * -(-3 // (2 * plan["batch_size"]))
    assert (plan["patience"], plan["accumulate"]) == (5, 2)
    code, _, err = in_process("finetune", dataset, "-o", "run", *options)
    assert code == 0, err
