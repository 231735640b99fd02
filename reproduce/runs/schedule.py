"""How long a model is trained on a data set: chosen on validation data, by one method for all that share the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A longer training is worth its time where it gains more than this in MAP on the validation part.
WORTH = 0.01

Curve = Sequence[tuple[int, float]]  # (training steps, validation MAP)


@dataclass(frozen=True)
class Schedule:
    """The least number of training steps of one model on one data set.

    Args:
        method: the method that it was chosen with.
        min_steps: the floor; 0 where the table has none.
        tried: what came of each floor, as written into the table's YAML.
        curve: of the chosen one.
        error: why none could be chosen.
    """

    method: str = ""
    min_steps: int = 0
    tried: Sequence[dict[str, Any]] = ()
    curve: Curve = ()
    error: str = ""


def choose(method: str, curves: Mapping[int, Curve]) -> Schedule:
    """The shortest floor whose MAP on the validation part, at the end of its training, is within .01 of the best.

    Args:
        method: name of the reference.
        curves: floor -> curve of its training, shortest first.
    """
    tried = []
    for floor, curve in curves.items():
        (steps, score), (best_steps, best_score) = curve[-1], max(curve, key=lambda point: point[1])
        entry = {"min_steps": floor, "steps": steps, "validation MAP": round(score, 6)}
        tried.append({**entry, "best validation MAP": round(best_score, 6), "at step": best_steps})
    best = max(entry["validation MAP"] for entry in tried)
    floor = next(entry["min_steps"] for entry in tried if entry["validation MAP"] >= best - WORTH)
    return Schedule(method, floor, tried, curves[floor])


def remark(curve: Curve) -> str:
    """What a row says of a training that was best at its end; "" where it was best before its last tenth."""
    steps = curve[-1][0] if curve else 0
    if len(curve) < 2 or max(curve, key=lambda point: point[1])[0] <= 0.9 * steps:  # of one nothing can be said
        return ""
    return f"validation MAP was best in the last tenth of {steps} training steps: longer training may score higher"
