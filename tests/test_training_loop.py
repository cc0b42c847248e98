"""The loop itself, round a toy network: same samples however they are drawn, resume, memory, numbers that are none."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor, nn
from toy_recipe import CASES, SPLIT, Toy

from medseg_cli.datasets import Case
from medseg_cli.errors import DeviceError, InputError, ModelError, UsageError
from medseg_cli.machine import free_memory
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.training import checkpoints, data
from medseg_cli.training.average import learned
from medseg_cli.training.batch_probe import largest_batch
from medseg_cli.training.data import Draws, Order, batches, case_at
from medseg_cli.training.loop import Fitted, fit
from medseg_cli.training.memory import size_of
from medseg_cli.training.plan import Plan, Resources, Stepped, Wishes
from medseg_cli.training.processes import check_batch, fabric_of
from medseg_cli.training.recipe import optimizer_of
from medseg_cli.training.step import SKIPS, Divergence, NotFiniteError, Stepper

PLAN = Plan(steps=12, batch_size=3, learning_rate=0.01, validate_every=4, ema=0.5, seed=3)


def trained(run: Path, plan: Plan = PLAN, recipe: Toy | None = None, **options: object) -> Fitted:
    return fit(recipe or Toy(), SPLIT, plan, run, lambda line: None, **options)  # type: ignore[arg-type]


def same(one: Fitted, two: Fitted) -> bool:
    states = one.network.state_dict(), two.network.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_epoch_shows_every_case_once() -> None:
    shown = [case_at(position, 3, 5) for position in range(20)]
    assert all(sorted(shown[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 20, 5))
    assert len({tuple(shown[start : start + 5]) for start in range(0, 20, 5)}) > 1


def test_processes_share_a_batch_and_miss_nothing() -> None:
    alone = list(Order(2, 5, step_size=8, batch=4))
    assert alone == [list(range(start, start + 4)) for start in (16, 20, 24, 28, 32, 36)]
    shared = zip(*(Order(2, 5, 8, 4, rank, 2) for rank in (0, 1)), strict=True)
    assert [first + second for first, second in shared] == alone
    # A batch that was halved for want of memory, and does not divide the step.
    assert list(Order(0, 1, 5, 2)) == [[0, 1], [2, 3], [4]]
    assert len(Order(0, 7, 5, 2)) == 21
    with pytest.raises(UsageError, match="a batch of 3 cannot be divided among 2 processes"):
        check_batch(PLAN, 2)


def test_workers_draw_what_this_process_draws() -> None:
    recipe = Toy()
    draws = Draws(recipe, [recipe.load(case) for case in SPLIT.train], 7)
    order = Order(0, 4, 4, 2)
    here, there = list(batches(draws, order, 0)), list(batches(draws, order, 2))
    assert len(here) == 8
    assert all(torch.equal(a, b) for one, two in zip(here, there, strict=True) for a, b in zip(one, two, strict=True))


def test_samples_are_drawn_with_one_thread_wherever_they_are_drawn() -> None:
    """How many threads share a sum decides its last bits: a worker process has one."""

    class Counting(Toy):
        def sample(self, volume: Tensor, rng: Generator) -> Tensor:
            return torch.linspace(0, 1, 300_001).mean() + 0 * volume + 1000 * torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        draws, order = Draws(Counting(), [torch.zeros(1)] * 2, 0), Order(0, 1, 2, 2)
        here, there = (next(iter(batches(draws, order, workers))) for workers in (0, 1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert torch.equal(here[0], there[0])
    assert float(here[0]) == pytest.approx(1000.5)


class Broken(Toy):
    """A recipe with a case that cannot be sampled."""

    def sample(self, volume: Tensor, rng: Generator) -> Tensor:
        raise InputError("d.nii.gz is too small", "leave it out")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_sample_is_said_as_it_is(tmp_path: Path, workers: int) -> None:
    with pytest.raises(InputError, match=r"^d\.nii\.gz is too small$"):
        trained(tmp_path, recipe=Broken(), resources=Resources(workers=workers))


class Dying(Toy):
    """A recipe whose worker is killed, as the kernel does when memory runs out."""

    def sample(self, volume: Tensor, rng: Generator) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_killed_worker_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="a process that draws samples was lost"):
        trained(tmp_path, recipe=Dying(), resources=Resources(workers=1))


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """Without what mixes a batch (batch norm, dropout), gradients of parts add up to those of the whole."""

    class Plain(Toy):
        def model(self, seed: int) -> nn.Module:
            torch.manual_seed(seed)
            return nn.Linear(3, 1)

    large, small = Plain(), Plain()
    one = trained(tmp_path / "a", replace(PLAN, batch_size=4), large)
    two = trained(tmp_path / "b", replace(PLAN, batch_size=2, accumulate=2), small)
    assert [[*small.seen[i], *small.seen[i + 1]] for i in range(0, 24, 2)] == large.seen
    for name, value in one.network.state_dict().items():
        assert torch.allclose(value, two.network.state_dict()[name], atol=1e-6)


class Full(Toy):
    """A recipe that runs out of memory with more than `most` samples."""

    def __init__(self, most: int, error: Exception) -> None:
        super().__init__()
        self.most, self.error = most, error

    def loss(self, model: nn.Module, samples: list[Tensor]) -> Tensor:
        if len(samples) > self.most:
            raise self.error
        return super().loss(model, samples)


CPU_FULL = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"


DRIVER_FULL = "Triton Error [CUDA]: out of memory"


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_FULL), RuntimeError(DRIVER_FULL), MemoryError()],
)
def test_out_of_memory_halves_the_batch_and_keeps_the_step(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    plan = replace(PLAN, batch_size=6, steps=3)
    whole, halved = Toy(), Full(2, error)
    trained(tmp_path / "whole", plan, whole)
    trained(tmp_path / "halved", plan, halved)
    # 6 does not fit, 3 does not, 1 does; all samples of all steps are the same.
    assert halved.batches == [1] * 18
    assert list(chain(*halved.seen)) == list(chain(*whole.seen))
    assert "3 samples go through the network together from now on, 6 still make a step" in caplog.text
    assert checkpoints.read(tmp_path / "halved")["state"]["batch"] == 1
    with pytest.raises(DeviceError, match="out of memory in step 1 with a batch of 6"):
        trained(tmp_path / "strict", plan, Full(2, error), resources=Resources(strict=True))
    with pytest.raises(DeviceError, match="with a batch of 1"):
        trained(tmp_path / "none", plan, Full(0, error))


def test_other_errors_of_the_network_are_not_taken_for_memory(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        trained(tmp_path, recipe=Full(0, RuntimeError("shapes differ")))


class NotANumber(Toy):
    """A recipe whose loss, or whose gradient alone, is none from the fourth step on."""

    def __init__(self, gradient: bool) -> None:
        super().__init__()
        self.gradient = gradient

    def loss(self, model: nn.Module, samples: list[Tensor]) -> Tensor:
        loss = super().loss(model, samples)
        if len(self.batches) < 4:
            return loss
        # sqrt has an infinite slope at 0.
        return loss + (loss * 0).sqrt() if self.gradient else loss * float("nan")


@pytest.mark.parametrize(("gradient", "what"), [(False, "the loss is nan"), (True, "the norm of the gradients is nan")])
def test_numbers_that_are_none_are_explained(tmp_path: Path, gradient: bool, what: str) -> None:
    plan = replace(PLAN, validate_every=3)
    with pytest.raises(ModelError) as caught:
        trained(tmp_path, plan, NotANumber(gradient))
    assert f"{what} in step 4 (learning rate " in caught.value.message
    ids = [CASES[case_at(position, 3, 5)].id for position in (9, 10, 11)]
    assert caught.value.message.endswith(f"cases {', '.join(dict.fromkeys(ids))})")
    assert "--learning-rate 0.003" in caught.value.hint
    # Weights that are none never reach a checkpoint.
    found = checkpoints.read(tmp_path)
    assert found["state"]["step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in found["network"].values())


def test_fp16_that_skips_every_step_is_said() -> None:
    class Overflowing:
        norms = iter([*[float("inf")] * SKIPS, 1.0, *[float("nan")] * (SKIPS + 1)])

        def clip_gradients(self, *_: object, **__: object) -> Tensor:
            return torch.tensor(next(self.norms))

    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": 0.1, "peak": 0.1}])
    stepper = Stepper(Overflowing(), None, optimizer, replace(PLAN, precision="fp16"))  # type: ignore[arg-type]
    for step in range(2 * SKIPS + 1):
        stepper.update(step)
    with pytest.raises(NotFiniteError, match="nan"):
        stepper.update(0)


def test_a_loss_that_rises_for_long_is_said_once() -> None:
    rng = np.random.default_rng(0)
    watch = Divergence()
    assert not any(watch.seen(loss) for loss in 0.5 + 0.2 * rng.random(300))
    # One bad batch is nothing.
    assert not any(watch.seen(loss) for loss in [9.0, *(0.5 + 0.2 * rng.random(50))])
    said = [text for text in map(watch.seen, 3 + rng.random(60)) if text]
    assert len(said) == 1
    assert said[0].startswith("the loss rises: 3")


class Scripted(Toy):
    """A recipe whose validations give these Dice values."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter(values)

    def score(self, model: nn.Module, samples: list[Tensor]) -> list[float]:
        return [next(self.values)]


def test_training_ends_when_validation_gets_no_better_and_keeps_the_best(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=40, validate_every=2, patience=3)
    fitted = trained(tmp_path, plan, Scripted([0.1, 0.3, 0.5, 0.4, 0.45, 0.5, 0.9]))
    assert [line.dice for line in fitted.state.history] == [0.3, 0.5, 0.4, 0.45, 0.5]
    assert fitted.state.before == 0.1
    # Of equal validations the later one: the weights of step 10.
    assert (fitted.state.best_step, fitted.state.best_dice) == (10, 0.5)
    straight = trained(
        tmp_path / "b", replace(plan, patience=0), Scripted([0.1, 0.3, 0.5, 0.4, 0.45, 0.9, *[0.0] * 15])
    )
    assert straight.state.best_step == 10
    assert same(fitted, straight)
    assert not same(fitted, trained(tmp_path / "c", plan, Scripted([0.1, 0.3, 0.9, *[0.0] * 20])))


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_signal_ends_the_step_and_a_resume_changes_no_bit(tmp_path: Path, stop: int) -> None:
    """Dropout, batch norm, averaged and best weights, the optimiser's moments: all of it goes on."""

    def interrupt(stepped: Stepped) -> None:
        if stepped.step == stop:
            for _ in range(2):  # as torchrun does
                os.kill(os.getpid(), signal.SIGTERM)

    straight = trained(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "broken", on_step=interrupt)
    assert checkpoints.read(tmp_path / "broken")["state"]["step"] == stop
    resumed = trained(tmp_path / "broken")
    assert same(straight, resumed)
    for run in ("straight", "broken"):
        rows = [line.rsplit(",", 1)[0] for line in (tmp_path / run / "log.csv").read_text().splitlines()]
        assert [row.split(",")[0] for row in rows] == ["step", "4", "8", "12"]
    assert straight.state.before == resumed.state.before
    assert [replace(line, seconds=0) for line in straight.state.history] == [
        replace(line, seconds=0) for line in resumed.state.history
    ]


def test_a_checkpoint_holds_nothing_that_is_frozen(tmp_path: Path) -> None:
    trained(tmp_path)
    found = checkpoints.read(tmp_path)
    names = set(Toy().model(0).state_dict()) - {"0.weight", "0.bias"}
    assert set(found["network"]) == set(found["average"]) == set(found["state"]["best"]) == names
    # Buffers are there although they do not learn.
    assert {"2.running_mean", "2.running_var", "2.num_batches_tracked"} < names


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    class Wider(Toy):
        def model(self, seed: int) -> nn.Module:
            return nn.Linear(3, 2)

    trained(tmp_path)
    with pytest.raises(ModelError, match=r"cannot be resumed: .* other tensors"):
        trained(tmp_path, recipe=Wider())


@pytest.mark.parametrize(
    ("offset", "value"), [(10, 99), (10, 8), (8, 1)], ids=["unknown compression", "deflate", "encrypted"]
)
def test_damage_of_an_archives_directory_is_damage(
    tmp_path: Path, offset: int, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Python's zip reader has another error for each."""
    trained(tmp_path)
    last = bytearray((tmp_path / "last.pt").read_bytes())
    last[last.index(b"PK\x01\x02") + offset] = value
    (tmp_path / "last.pt").write_bytes(last)
    assert checkpoints.read(tmp_path)["state"]["step"] == 8
    assert "last.pt is damaged" in caplog.text
    assert "going on from previous.pt, step 8" in caplog.text


def test_checkpoints_come_by_the_clock_too(tmp_path: Path) -> None:
    steps = []
    written = checkpoints.write

    def note(run: Path, content: dict) -> None:
        steps.append(content["state"]["step"])
        written(run, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write", note)
        trained(tmp_path / "often", replace(PLAN, steps=4), resources=Resources(minutes=0))
    # The last step before its validation, and with it.
    assert steps == [1, 2, 3, 4, 4]
    assert checkpoints.read(tmp_path / "often")["state"]["step"] == 4


def test_cases_too_large_for_memory_are_kept_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_memory = trained(tmp_path / "a")
    assert "do not fit into memory" not in caplog.text
    run = tmp_path / "b"
    (run / ".cases-of-a-start-that-was-killed").mkdir(parents=True)
    monkeypatch.setattr(data, "free_memory", lambda: 100)
    folders = []
    recipe = Toy()
    recipe.loss = lambda *args: folders.append([p.name for p in run.glob(".cases-*/*")]) or Toy.loss(recipe, *args)  # type: ignore[method-assign]
    on_disk = trained(run, recipe=recipe)
    assert "do not fit into memory" in caplog.text
    assert all(len(names) == 6 for names in folders)
    assert list(run.glob(".cases-*")) == []
    assert same(in_memory, on_disk)


@pytest.mark.parametrize("memory", [None, 100])
def test_cases_are_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int | None) -> None:
    """But for the three by which the memory is judged, however often they are shown."""
    loaded: list[str] = []

    class Counting(Toy):
        def load(self, case: Case) -> Tensor:
            loaded.append(case.id)
            return super().load(case)

    if memory is not None:
        monkeypatch.setattr(data, "free_memory", lambda: memory)
    trained(tmp_path, recipe=Counting())
    assert set(loaded) == {case.id for case in (*SPLIT.train, *SPLIT.validation)}
    assert len(loaded) == len(set(loaded)) + 3


def test_an_error_of_loading_keeps_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of a case by which the memory is not judged."""

    class Unreadable(Toy):
        def load(self, case: Case) -> Tensor:
            if case.id == SPLIT.train[1].id:
                raise InputError("a.nii.gz has no labelled voxel")
            return super().load(case)

    judged = data.in_memory
    monkeypatch.setattr(data, "in_memory", lambda recipe, cases, processes: judged(Toy(), cases, processes))
    with pytest.raises(InputError, match="no labelled voxel"):
        trained(tmp_path, recipe=Unreadable())


def test_free_memory_is_that_of_the_container(tmp_path: Path) -> None:
    for group, limit, used, cache in (("", "max", 9, 0), ("outer", 700, 600, 50), ("outer/inner", 400, 100, 20)):
        folder = tmp_path / "v2" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    # 700 - 600 + 50 of the outer group is less than 400 - 100 + 20 of the inner one.
    assert free_memory(tmp_path / "v2", tmp_path / "cgroup") == 150
    folder = tmp_path / "v1" / "memory" / "docker"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("300\n")
    (folder / "memory.stat").write_text("total_inactive_file 7\n")
    (tmp_path / "cgroup1").write_text("4:cpu:/docker\n3:memory:/docker\n")
    assert free_memory(tmp_path / "v1", tmp_path / "cgroup1") == 707
    assert free_memory(tmp_path / "nothing", tmp_path / "cgroup") > 2**20


def test_sizes_of_loaded_cases() -> None:
    thing = {"a": [torch.zeros(3, 5), np.zeros(7, np.int16)], "b": (Draws(Toy(), [torch.zeros(2)], 0), "text")}
    assert size_of(thing) == 3 * 5 * 4 + 7 * 2 + 2 * 4


def test_the_largest_batch_is_found_by_trying() -> None:
    fabric = fabric_of(Resources(), "fp32")
    full = Full(5, torch.OutOfMemoryError("CUDA out of memory"))
    assert largest_batch(fabric, full, CASES[0], most=64) == 4
    assert largest_batch(fabric, Toy(), CASES[0], most=9) == 8
    with pytest.raises(DeviceError, match="a single sample"):
        largest_batch(fabric, Full(0, MemoryError()), CASES[0], most=9)


def test_a_plan_comes_of_wishes_and_the_recipes_defaults() -> None:
    defaults = Defaults(learning_rate=1e-3, epochs=10, validate_every=2, ema=0.9)
    # 11 cases in steps of 4: three steps show all of them.
    plan = Wishes(accumulate=2).plan(defaults, 2, 11)
    assert (plan.steps, plan.validate_every, plan.learning_rate, plan.ema) == (30, 6, 1e-3, 0.9)
    plan = Wishes(epochs=3, learning_rate=0.5, validate_every=7).plan(defaults, 4, 11)
    assert (plan.steps, plan.validate_every, plan.learning_rate) == (9, 7, 0.5)
    assert Wishes(steps=5).plan(defaults, 4, 11).steps == 5
    with pytest.raises(UsageError, match="--epochs contradicts --steps"):
        Wishes(steps=5, epochs=1)


def test_groups_have_their_own_rates_and_decay() -> None:
    class Scaled(Toy):
        def groups(self, network: nn.Module) -> list[dict]:
            layers = list(network)
            return [
                {"params": list(layers[0].parameters())},
                {"params": list(layers[1].parameters()), "lr_scale": 0.1},
                {"params": list(layers[4].parameters()), "weight_decay": 0.5},
            ]

    optimizer = optimizer_of(Scaled(), Scaled().model(0), replace(PLAN, learning_rate=0.2, weight_decay=0.03))
    found = [
        (group["peak"], group["weight_decay"], [tuple(value.shape) for value in group["params"]])
        for group in optimizer.param_groups
    ]
    # The frozen first layer is in no group; matrices decay, biases do not.
    assert found == [
        (pytest.approx(0.02), 0.03, [(4, 3)]),
        (pytest.approx(0.02), 0.0, [(4,)]),
        (0.2, 0.5, [(1, 4), (1,)]),
    ]

    class Nothing(Toy):
        def groups(self, network: nn.Module) -> list[dict]:
            return [{"params": list(network.requires_grad_(False).parameters())}]

    with pytest.raises(UsageError, match="nothing of this network would learn"):
        optimizer_of(Nothing(), Nothing().model(0), PLAN)


def test_what_is_learned_is_named_by_the_state_dict() -> None:
    network = Toy().model(0)
    assert "0.weight" not in learned(network)
    assert learned(network)["1.weight"].data_ptr() == network.state_dict()["1.weight"].data_ptr()


def test_warnings_reach_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path)
    with caplog.at_level(logging.WARNING):
        trained(tmp_path)
    assert "resumed after step 12 of 12" in caplog.text
