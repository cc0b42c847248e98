"""Ray: a worker that dies costs no case but its own, and nothing of Ray is left when a run is over."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray_stand_in
from conftest import LOOPBACK

from medseg_cli.batch import ray_cluster, ray_engine, ray_nodes, records
from medseg_cli.batch.ray_nodes import Share
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import DeviceError, InputError, ModelError, UsageError

needs_ray = pytest.mark.skipif(
    # Not imported here: Ray reads its environment when it is, and ours is not set yet.
    importlib.util.find_spec("ray") is None,
    reason="Ray is an extra",
)


CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture(autouse=True)
def stand_in_for_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import the same stand-in as this process."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@needs_ray
def test_a_killed_worker_costs_its_case_at_most(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What an earlier test's command line tells people of the log is no word of Ray.
    people = [each for each in logging.getLogger().handlers if not (each.name or "").startswith("medseg-")]
    monkeypatch.setattr(logging.getLogger(), "handlers", people)
    # Apart, so that no worker has both: of two deaths in a row a case is held to be guilty.
    names = ("dies", *(f"c{number:02}" for number in range(10)), "once")
    kept: list[Record] = []
    cases = ray_stand_in.cases(tmp_path, *names)
    ray_engine.run(cases, Settings(tmp_path, "none", device="cpu"), kept.append, jobs=2, begin=ray_stand_in.begin)

    assert sorted(each.id for each in kept) == sorted(names), "every case has one record"
    found = {each.id: each for each in kept}
    tries = {name: (tmp_path / f"{name}.tries").read_text().split() for name in names}
    assert {name: len(pids) for name, pids in tries.items()} == {
        name: 2 if name in ("dies", "once") else 1 for name in names
    }, "what a dead worker had not begun counts as begun once"
    assert tries["dies"][0] != tries["dies"][1], "the second try is another worker's"
    assert found["dies"].status == "failed"
    assert found["dies"].error is not None
    assert found["dies"].error["code"] == DeviceError.exit_code
    assert "the worker died" in found["dies"].reason
    assert records.read(tmp_path, "dies") == found["dies"], "nobody else is left to write it"
    assert all(found[name].status == "ok" for name in names if name != "dies")
    seen = {pid for pids in tries.values() for pid in pids}
    # How many others finished cases is a matter of who starts faster.
    assert len(seen) >= 4, "three workers that died, and one more at least: of two jobs, two began anew"
    assert {each.worker["threads"] for each in kept if each.status == "ok"} == {str(max(CPUS // 2, 1))}

    assert {each.worker["nice"] for each in kept if each.status == "ok"} == {os.nice(0)}, "as fast as without Ray"

    said = [each.getMessage() for each in caplog.records if each.name == "medseg.test"]
    assert len(said) > len(names) / 2, "what workers log arrives here"
    alive = [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
    assert alive == [], "no process of Ray is left"
    assert capfd.readouterr() == ("", ""), "what Ray says goes to the log"


@needs_ray
def test_ray_of_our_own_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens on loopback alone and its folder is private; a node that does not see a scan is named."""
    # Sockets have short paths; a user's TMPDIR may be long.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ray_cluster.connected("", 2) as ray:
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            connection.laddr.ip.removeprefix("::ffff:")
            for process in family
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening
        assert listening <= LOOPBACK
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        (node,) = ray.nodes()
        folder = Path(node["ObjectStoreSocketName"]).parents[3]
        assert folder.stat().st_mode & 0o77 == 0
        ray_nodes.check_nodes(ray, tmp_path, [tmp_path], Share(1, 1, 0))
        with pytest.raises(InputError, match=r"node .* does not see .*elsewhere"):
            ray_nodes.check_nodes(ray, tmp_path, [tmp_path / "elsewhere"], Share(1, 1, 0))
    assert not ray.is_initialized()
    assert not folder.exists()


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "error", "says"),
    [
        (ray_stand_in.begin_without_a_model, ModelError, "the model is missing"),
        (ray_stand_in.begin_and_die, DeviceError, "3 Ray workers in a row died before they were ready"),
    ],
)
def test_workers_that_cannot_begin_end_the_run(
    tmp_path: Path, begin: Callable[[Settings], Any], error: type[Exception], says: str
) -> None:
    kept: list[Record] = []
    with pytest.raises(error, match=says):
        ray_engine.run(
            ray_stand_in.cases(tmp_path, "a", "b"),
            Settings(tmp_path, "none", device="cpu"),
            kept.append,
            jobs=1,
            begin=begin,
        )
    assert kept == []


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        ray_engine.run(
            ray_stand_in.cases(tmp_path, "a"), Settings(tmp_path, "none"), lambda record: None, begin=ray_stand_in.begin
        )
    assert caught.value.hint == "pip install 'medseg[ray]'"


@needs_ray
def test_an_address_where_nothing_listens_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DeviceError, match=f"nothing answers at {address}"), ray_cluster.connected(address, 1):
            pass


def nodes(*resources: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in resources]


@pytest.mark.parametrize(
    ("machines", "device", "jobs", "expected"),
    [
        (nodes((8, 0)), "auto", 0, Share(1, 8, 0)),
        (nodes((8, 0)), "cpu", 3, Share(3, 2, 0)),
        (nodes((8, 0)), "cpu", 99, Share(8, 1, 0)),
        (nodes((8, 0), (4, 0)), "cpu", 0, Share(2, 4, 0)),
        (nodes((8, 0), (4, 0)), "cpu", 3, Share(3, 4, 0)),
        (nodes((0, 0), (16, 4), (8, 2)), "auto", 0, Share(6, 4, 1)),
        (nodes((16, 4)), "cuda", 2, Share(2, 4, 1)),
        (nodes((16, 4)), "gpu", 9, Share(4, 4, 1)),
        (nodes((2, 4)), "auto", 0, Share(4, 0, 1)),
        (nodes((16, 4)), "cpu", 4, Share(4, 4, 0)),
    ],
)
def test_the_machines_are_shared_out(machines: list[dict[str, Any]], device: str, jobs: int, expected: Share) -> None:
    share = ray_nodes.share(machines, device, jobs)
    assert share == expected


@pytest.mark.parametrize(
    ("machines", "device", "jobs", "error"),
    [
        (nodes((8, 0)), "cuda", 0, DeviceError),
        (nodes((8, 2)), "cuda:1", 0, UsageError),
        (nodes((0, 0)), "cpu", 0, DeviceError),
        (nodes((8, 0), (8, 0)), "mps", 0, UsageError),
    ],
)
def test_devices_that_ray_cannot_share_out(
    machines: list[dict[str, Any]], device: str, jobs: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        ray_nodes.share(machines, device, jobs)
