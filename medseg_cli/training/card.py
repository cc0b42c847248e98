"""The model card of a run: what was trained on what, how, and how well it validates."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.preset import Preset
from medseg_cli.training.curves import FILE as CURVES
from medseg_cli.training.facts import RunFacts
from medseg_cli.training.record import Record, write_text

FILE = "card.md"
LINES = 12
"""Most validations that the card lists; log.csv has all."""


def write_card(run: Path, base: Preset, facts: RunFacts, record: Record, machine: str, seconds: float) -> Path:
    """Write `card.md` beside the preset.

    Args:
        run: the run's folder.
        base: the preset that was trained.
        facts: how it went.
        record: how it was begun.
        machine: where it ran.
        seconds: of training.
    """
    plan, cases = facts.plan, facts.cases
    use, held, measure = _captions() if facts.captions else _masks()
    began = f"weights with SHA-256 `{facts.start}`" if facts.start else "random weights"
    part = f"lora, rank {facts.choices.rank}" if facts.choices.peft == "lora" else facts.choices.peft
    last = facts.history[-1].step
    stopped = f" (ended early, after {last}: no better validation in {plan.patience})" if last < plan.steps else ""
    versions = ", ".join(f"{name} {value}" for name, value in record.versions.items() if value)
    text = f"""# Model card: {run.resolve().name}

{base.title}, trained on {facts.dataset} with `medseg finetune`. Research use only: no medical device, and measured on
nothing but the cases below.

## Use

`{use}`, where RUN is this folder, on scans like those of the dataset.
Others were not tried.

## Training data

{facts.dataset}: {cases["train"]} cases trained, {cases["validation"]} validated, {cases["test"]} are held back{held};
`split.json` names them.

## Training

```sh
{record.command or "(called from Python)"}
```

Preset {Path(record.preset).name}, begun with {began}. {_trained(part, facts)}
{plan.steps} steps planned{stopped} of {plan.step_size} samples, AdamW, peak learning rate
{plan.learning_rate:g}{_cycles(facts)}, weight decay {plan.weight_decay:g}, {plan.precision}, seed {plan.seed}; weights
averaged with decay {plan.ema:g}.
{seconds / 60:.1f} minutes of training steps on {machine}. {versions}.

## Validation

The exported weights are those after step {facts.step}, the best of {len(facts.history)} validations: {facts.metric}
{facts.dice:.4f}; the weights it began with had {facts.before:.4f}. They were chosen by these cases, so the figure
flatters them: {measure}.{_also(facts)}

| step | training loss | validation {facts.metric} |
|---|---|---|
{_table(facts)}

![curves]({CURVES})
"""
    write_text(run / FILE, text)
    return run / FILE


def _cycles(facts: RunFacts) -> str:
    plan = facts.plan
    if plan.cycles == 1:
        return ""
    form = " as the published code has it" if plan.released_rate else ""
    return (
        f"\nin {plan.cycles} cycles{form} (gamma {plan.gamma:g}; `ensemble.yaml` averages {len(plan.kept)} checkpoints)"
    )


def _masks() -> tuple[str, str, str]:
    """How a network that learnt masks is used, what its test cases are for, and how it is measured on them."""
    return (
        "medseg segment SCAN -o MASK --preset RUN",
        " for\n`medseg evaluate`",
        "measure on the test cases with `medseg evaluate DATASET --preset RUN`",
    )


def _captions() -> tuple[str, str, str]:
    """The same of one that learnt captions: it compares texts and pictures, and was shown no mask."""
    return (
        'medseg segment SCAN -o MASK --preset RUN --text "..."',
        "",
        "measure masks made from texts on scans that have masks. It saw pictures and\n"
        "captions: where a thing is, it was never told",
    )


def _trained(part: str, facts: RunFacts) -> str:
    if not facts.captions:
        return f"Trained part: {part}; objects {facts.choices.objects}."
    loss = "the published code's form of DHN-NCE, whose gradient differs from the paper's"
    return f"Trained part: {part}; loss: {loss if facts.choices.released_loss else 'DHN-NCE'}."


def _also(facts: RunFacts) -> str:
    """What else was measured of the exported weights."""
    exported = next((line for line in facts.history if line.step == facts.step), None)
    if exported is None or not exported.also:
        return ""
    return "\nBesides: " + ", ".join(f"{name} {value:.4f}" for name, value in exported.also.items()) + "."


def _table(facts: RunFacts) -> str:
    """At most `LINES` validations, evenly spaced, the last one among them."""
    every = -(-len(facts.history) // LINES)
    shown = facts.history[::-1][::every][::-1]
    rows = [f"| 0 | | {facts.before:.4f} |", *(f"| {x.step} | {x.loss:.4f} | {x.dice:.4f} |" for x in shown)]
    return "\n".join(rows)
