"""What a sceptical reader tried: none of it may end as a bug, a lost file or a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def test_a_log_never_lands_in_another_file(run_medseg, tmp_path: Path) -> None:
    precious = tmp_path / "scan.nii.gz"
    precious.write_bytes(b"\x1f\x8b precious")
    done = run_medseg("segment", precious, "-o", tmp_path / "m.nii.gz", "--log-json", precious, "-p", "hippocampus-mr",
                      "--point", "1,1,1")  # fmt: skip
    assert done.rc == 3
    assert "no log of JSON lines" in done.stderr
    assert precious.read_bytes() == b"\x1f\x8b precious"


@pytest.mark.parametrize("where", ["scan", "preset", "output"])
def test_paths_that_are_too_long_are_said(run_medseg, tmp_path: Path, where: str) -> None:
    long = "x" * 300
    (tmp_path / "brain.nii.gz").write_bytes(b"0")
    words = {"scan": str(tmp_path / "brain.nii.gz"), "preset": "hippocampus-mr", "output": str(tmp_path / "m.nii.gz")}
    words[where] = f"{long}.nii.gz" if where != "preset" else long
    done = run_medseg("segment", words["scan"], "-o", words["output"], "-p", words["preset"], "--point", "1,1,1")
    assert done.rc in (3, 4), done.stderr
    assert "bug" not in done.stderr


def test_a_pipe_is_no_scan(run_medseg, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run_medseg("info", tmp_path / "pipe")
    assert done.rc == 3
    assert "is a pipe" in done.stderr


def test_a_closed_stdout_is_no_bug(root: Path, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m medseg_cli presets list >&-'
    done = subprocess.run(["sh", "-c", command], cwd=root, capture_output=True, text=True, check=False)
    assert "bug in medseg" not in done.stderr


def test_a_shown_preset_works_from_anywhere(run_medseg, tmp_path: Path) -> None:
    shown = run_medseg("presets", "show", "hippocampus-mr")
    mine = tmp_path / "mine.yaml"
    mine.write_text(shown.stdout.replace("name: hippocampus-mr", "name: mine", 1))
    done = run_medseg("presets", "check", mine)
    assert done.rc == 0
    assert "missing" not in done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_closed_terminal_ends_a_run_as_ctrl_c_does(root: Path, medseg_home: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a test runner under nohup ignores it, and its children too\n"
        "from medseg_cli import app\n"
        "def wait(*_, **__):\n"
        "    sys.stderr.write('ready\\n'); sys.stderr.flush(); time.sleep(60)\n"
        "app.app = wait\n"
        "sys.exit(app.main([]))\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert running.stderr.readline() == "ready\n"
    time.sleep(0.2)
    running.send_signal(signal.SIGHUP)
    assert running.wait(timeout=30) == 130
