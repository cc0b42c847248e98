"""`medseg weights ...` through the real command line, with a server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import Site, serve
from conftest import medseg_env

from medseg_cli.weights.catalogue import CATALOGUE


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.pth.tar"
    torch.save(checkpoints.sam3d(), path)
    return path


def test_list_names_everything_with_licence_and_state(run_medseg: Callable[..., Any]):
    done = run_medseg("weights", "list")
    assert done.rc == 0
    for known in CATALOGUE:
        line = next(line for line in done.stdout.splitlines() if line.startswith(known.name + " "))
        assert known.licence in line
        assert ("pull" if known.url else "by hand") in line
    assert any(line.startswith("hippocampus-mr ") and "CC-BY-SA-4.0" in line for line in done.stdout.splitlines())


def test_list_as_json_has_hashes_and_the_command_to_type(run_medseg: Callable[..., Any]):
    rows = {row["name"]: row for row in json.loads(run_medseg("weights", "list", "--json").stdout)}
    assert rows["sam-vit-b"]["sha256"] == "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    assert rows["sam-vit-b"]["get"] == "medseg weights pull sam-vit-b"
    assert rows["sam3d-kits"]["sha256"] is None


def test_import_verify_path_and_damage(run_medseg: Callable[..., Any], checkpoint: Path, medseg_home: Path):
    done = run_medseg("weights", "import", checkpoint, "--name", "sam3d-kits")
    assert done.rc == 0
    stored = medseg_home / "weights" / "sam3d-kits.safetensors"
    assert done.stdout.strip() == str(stored)
    assert "licence none stated by the authors" in done.stderr
    assert "unverified source" in done.stderr
    assert run_medseg("weights", "path", "sam3d-kits").stdout.strip() == str(stored)
    assert "ready" in run_medseg("weights", "list").stdout
    assert run_medseg("weights", "verify", "sam3d-kits").rc == 0
    body = bytearray(stored.read_bytes())
    body[-1] ^= 1
    stored.write_bytes(body)
    damaged = run_medseg("weights", "verify", "sam3d-kits", "--json")
    assert damaged.rc == 4
    assert json.loads(damaged.stdout)[0]["state"] == "damaged"
    assert run_medseg("weights", "path", "sam3d-kits").rc == 4


def test_import_as_json(run_medseg: Callable[..., Any], checkpoint: Path):
    found = json.loads(run_medseg("weights", "import", checkpoint, "--name", "sam3d-lits", "--json", "-q").stdout)
    assert (found["name"], found["layout"], found["source"]) == ("sam3d-lits", "3dsam-adapter", "last.pth.tar")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("path", "sam-vit-b"), "medseg weights pull sam-vit-b"),
        (("path", "sam3d-colon"), "medseg weights import FILE --name sam3d-colon"),
        (("path", "sam-vit-x"), "did you mean 'sam-vit-"),
        (("pull", "samus"), "cannot be downloaded by a program"),
        (("verify", "sam-vit-b"), "medseg weights pull sam-vit-b"),
        (("import", "nowhere.pth"), "cannot read nowhere.pth"),
    ],
)
def test_what_is_missing_ends_with_4_and_a_command(run_medseg: Callable[..., Any], argv: tuple[str, ...], said: str):
    done = run_medseg("weights", *argv)
    assert done.rc == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_pull_offline_and_from_a_wrong_mirror(run_medseg: Callable[..., Any]):
    offline = run_medseg("weights", "pull", "sam-vit-b", env={"MEDSEG_OFFLINE": "1"})
    assert offline.rc == 4
    assert "MEDSEG_OFFLINE" in offline.stderr
    with serve(Site(b"not the file")) as site:
        wrong = run_medseg("weights", "pull", "sam-vit-b", "--url", site.url)
    assert wrong.rc == 4
    assert "offers 12 bytes, the published file has 375042383" in wrong.stderr
    assert "licence Apache-2.0" in wrong.stderr


def test_ctrl_c_keeps_what_was_downloaded(medseg_home: Path, tmp_path: Path):
    """A pull that is interrupted ends with 130; its part stays and the store has no file."""
    part = medseg_home / "weights" / "downloads" / "resnet34-imagenet.part"
    with serve(Site(bytes(2**20), cut=[500_000], status=[])) as site:
        site.cut += [0] * 50  # the connection dies; medseg waits and asks again
        command = [sys.executable, "-m", "medseg_cli", "weights", "pull", "resnet34-imagenet", "--url", site.url]
        running = subprocess.Popen(command, env=medseg_env(medseg_home, {}), cwd=tmp_path, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (part.is_file() and part.stat().st_size >= 500_000) and time.monotonic() < deadline:
            assert running.poll() is None, running.stderr.read() if running.stderr else ""
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGINT)
        running.communicate(timeout=60)
    assert running.returncode == 130
    assert part.stat().st_size == 500_000
    assert not (medseg_home / "weights" / "resnet34-imagenet.safetensors").exists()


def test_listing_and_help_import_no_torch(root: Path, medseg_home: Path):
    code = (
        "import sys, contextlib, io\n"
        "from medseg_cli.app import main\n"
        "for argv in (['weights', 'list'], ['presets', 'list'], ['presets', 'show', 'sam3d-kits']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        code = main(argv)\n"
        "        assert not code, (argv, code)\n"
        "heavy = {'torch', 'monai', 'numpy', 'httpx', 'safetensors', 'SimpleITK', 'nibabel'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=medseg_env(medseg_home, {}),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
