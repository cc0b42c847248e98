"""All that a run needs to go on bit for bit, as containers that a checkpoint can hold; and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from medseg_cli.errors import ModelError
from medseg_cli.training.average import Average, learned, put
from medseg_cli.training.plan import Plan
from medseg_cli.training.state import State, state_of
from medseg_cli.training.step import Stepper


def taken(plan: Plan, state: State, network: nn.Module, average: Average, stepper: Stepper) -> dict[str, Any]:
    """What a checkpoint holds. No state of a random generator: every step seeds its own."""
    return {
        "plan": asdict(plan),
        "state": state.plain(),
        "network": learned(network),
        "average": average.values,
        "optimizer": stepper.optimizer.state_dict(),
        "scaler": stepper.fabric.strategy.precision.state_dict(),
    }


def restored(content: Mapping[str, Any], what: str, network: nn.Module, average: Average, stepper: Stepper) -> State:
    """Give network, average and optimiser what a checkpoint holds; the state that was with it.

    Args:
        content: as `taken` made it.
        what: where it comes from, for messages.

    Raises:
        ModelError: it is another network's.
    """
    try:
        put(network, content["network"])
        average.load(content["average"])
        stepper.optimizer.load_state_dict(content["optimizer"])
        stepper.fabric.strategy.precision.load_state_dict(content["scaler"])
        return state_of(content["state"])
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{what} cannot be resumed: {str(error).splitlines()[0]}", "use another folder with -o"
        ) from error
