"""Table 1: how the divergences behave in finite precision, over a grid of inputs that strain them."""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from losses import AlignmentLoss, CMPMKLLoss, CSClampedLoss, CSLoss, GCSClampedLoss, GCSLoss, KLLoss
from losses.divergence import clamped_divergence
from losses.matching import unit
from reproduce.measurements.measures import command, device, measured, median_seconds
from reproduce.report.figures import STYLE, frame, save_figure
from reproduce.results.schema import Row

TITLE = "Table 1: numerical behaviour of the divergences"
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GRID = {
    "magnitudes": [1, 10, 30, 100, 1_000, 10_000],
    "batches": [8, 64, 256],
    "targets": ["one-hot", "multi-positive", "uniform", "saturated"],
    "dim": 16,
}
TIMED = {"batch": 256, "magnitude": 10, "target": "multi-positive"}
SCALES = {"quick": {"seeds": 3, "repeats": 30}, "paper": {"seeds": 30, "repeats": 300}}


class CMPMWithoutEpsilon(CMPMKLLoss):
    """The divergence that `cmpm_kl` approximates, KL(p || q): infinite where the target is zero."""

    epsilon = 0.0


class CSInOrdinarySpace(CSLoss):
    """`cs` with ordinary products of softmax probabilities instead of sums of their logarithms, and no epsilon.

    Its denominator is bounded as that of `cs` is; where the target's probability underflows its numerator is zero.
    """

    def divergence(self, logits: Tensor, log_target: Tensor) -> Tensor:
        return clamped_divergence([logits.log_softmax(dim=1).exp(), log_target.exp()], epsilon=0.0)


@dataclass(frozen=True)
class Divergence:
    """A loss of the table.

    Args:
        loss: its class.
        exact: class of the same divergence without epsilon; its values in float64 are the truth.
        modalities: how many it is given.
        settings: keywords of both, besides the temperature.
    """

    loss: type[AlignmentLoss]
    exact: type[AlignmentLoss]
    modalities: int = 2
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def hyperparameters(self) -> list[str]:
        """Names of the arguments of the loss's constructor."""
        parameters = inspect.signature(self.loss).parameters.values()
        return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]

    def build(self, magnitude: float, exact: bool = False) -> AlignmentLoss:
        """The loss for embeddings of length `magnitude`, whose logits then lie within plus and minus `magnitude`."""
        temperature = {"temperature": 1 / magnitude} if "temperature" in self.hyperparameters else {}
        return (self.exact if exact else self.loss)(**temperature, **self.settings)


DIVERGENCES = {
    "CS": Divergence(CSLoss, CSLoss),
    "GCS": Divergence(GCSLoss, GCSLoss, 3, {"scheme": "mixed"}),
    "KL, forward": Divergence(KLLoss, KLLoss),
    "CMPM-KL": Divergence(CMPMKLLoss, CMPMWithoutEpsilon),
    "CS, clamped": Divergence(CSClampedLoss, CSLoss),
    "GCS, clamped": Divergence(GCSClampedLoss, GCSLoss, 3, {"scheme": "mixed"}),
    "CS, ordinary space": Divergence(CSInOrdinarySpace, CSLoss),
}
STYLES = dict(zip(DIVERGENCES, (*STYLE, ("#000000", "x")), strict=True))
LOG_SPACE = ("CS", "GCS", "KL, forward")
DRAWN = ("finite gradients", "relative error", "gradient error")

TEXT = f"""Embeddings of two modalities, for GCS three, {GRID["dim"]}-d, drawn so that the cosine of a pair lies
anywhere between -1 and 1: every batch holds items that are matched well, badly and the wrong way round. They are scaled
to length m, the logit magnitude, and rounded to the precision; with temperature 1/m all losses see logits between -m
and m. Batches of {", ".join(map(str, GRID["batches"]))} are averaged over, and four targets: one-hot, multi-positive
(four items per class), uniform, and saturated (weight 1 for the pair, e^-20 to e^-80 elsewhere). CMPM-KL adds
{CMPMKLLoss.epsilon:g} to the target; the clamped forms raise every probability to {CSClampedLoss().epsilon:g} and take
unshifted exponentials and products in ordinary space; "CS, ordinary space" takes a softmax, but the products as they
are, and has no epsilon. All reduce in float32, whatever the precision of the embeddings. In the figure all but the
forms in log space are dashed.

- finite values, finite gradients: share of the batches whose loss, or whole gradient, is finite.
- live gradients: share of the embeddings whose gradient is finite and not all zero, of those whose exact gradient is
  not all zero in that precision.
- relative error: of the value against the divergence without epsilon in float64 on the same rounded inputs; the
  median and the largest over the finite values, so that a form which is seldom finite is judged by its easy batches.
- gradient error: length of the difference from the exact gradient, over the length of that; the median over the finite
  gradients. An error of 1 is what no gradient at all has.
- hyperparameters: arguments of the loss's constructor.
- seconds/step: forward and backward, median."""


@dataclass(frozen=True)
class Outcome:
    """What one batch gave: `live` of `alive` embeddings have a gradient; errors are None where there is no such."""

    finite_value: bool
    finite_gradient: bool
    live: int
    alive: int
    error: float | None
    gradient_error: float | None
    exact_is_finite: bool


Outcomes = dict[tuple[str, str, int], list[Outcome]]


def main(argv: list[str]) -> int:
    """Run ``python -m reproduce table1``, see ``measures.command``.

    Args:
        argv: words after ``table1``.
    """
    settings = {"grid": GRID, "precisions": list(PRECISIONS), "timed": TIMED}
    return command(argv, "table1", TITLE, SCALES, settings, measure)


def measure(scale: Mapping[str, int], columns: Mapping[str, str]) -> tuple[list[Row], str, Callable[[Path], None]]:
    """The rows of table 1, the text above them and what draws its picture.

    Args:
        scale: "seeds" of the grid and "repeats" of a timed step.
        columns: those that all rows share.
    """
    seeds = range(scale["seeds"])
    shared = {**columns, "dataset": "stress grid", "seeds": " ".join(map(str, seeds))}
    outcomes = run_grid(seeds)
    rows = [*_grid_rows(outcomes, shared), *_seconds_rows(scale["repeats"], shared), *_hyperparameter_rows(shared)]
    return rows, TEXT, partial(draw, outcomes)


def draw_inputs(seed: int, batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Unit embeddings (batch, dim) of three modalities in float64, and the labels of every target.

    The second and third modality have with the first, item by item, a cosine drawn between -1 and 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def direction() -> Tensor:
        return unit(torch.randn(batch, GRID["dim"], generator=generator, dtype=torch.float64))

    embeddings = {"a": direction()}
    for name in ("b", "c"):
        share = 2 * torch.rand(batch, 1, generator=generator, dtype=torch.float64) - 1
        other = direction()
        other = unit(other - (other * embeddings["a"]).sum(dim=1, keepdim=True) * embeddings["a"])
        embeddings[name] = share * embeddings["a"] + (1 - share**2).sqrt() * other
    weights = torch.exp(-20 - 60 * torch.rand(batch, batch, generator=generator))
    targets = {
        "one-hot": torch.arange(batch),
        "multi-positive": torch.arange(batch) // 4,
        "uniform": torch.zeros(batch, dtype=torch.long),
        "saturated": weights.fill_diagonal_(1),
    }
    return embeddings, targets


def run_grid(seeds: range, grid: Mapping[str, Any] = GRID) -> Outcomes:
    """Every divergence on every point of the grid: (method, precision, magnitude) -> outcomes of its batches."""
    outcomes: Outcomes = {}
    for seed, batch in product(seeds, grid["batches"]):
        embeddings, targets = draw_inputs(seed, batch)
        for target, magnitude, precision in product(grid["targets"], grid["magnitudes"], PRECISIONS):
            rounded = {name: (magnitude * x).to(device(), PRECISIONS[precision]) for name, x in embeddings.items()}
            for method, outcome in _measure(rounded, targets[target].to(device()), magnitude):
                outcomes.setdefault((method, precision, magnitude), []).append(outcome)
    return outcomes


def _measure(rounded: dict[str, Tensor], target: Tensor, magnitude: int) -> Iterator[tuple[str, Outcome]]:
    truths: dict[type, tuple[float, Tensor]] = {}
    for method, divergence in DIVERGENCES.items():
        inputs = dict(list(rounded.items())[: divergence.modalities])
        if divergence.exact not in truths:
            wide = {name: x.double() for name, x in inputs.items()}
            truths[divergence.exact] = _step(divergence.build(magnitude, exact=True), wide, target)
        yield method, assess(*_step(divergence.build(magnitude), inputs, target), *truths[divergence.exact])


def _step(loss: AlignmentLoss, inputs: Mapping[str, Tensor], target: Tensor) -> tuple[float, Tensor]:
    """Value, and the gradients of all modalities as rows."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    total = loss(leaves, target).total
    return total.item(), torch.cat(torch.autograd.grad(total, list(leaves.values())))


def assess(value: float, gradient: Tensor, exact_value: float, exact_gradient: Tensor) -> Outcome:
    """What a batch gave, against the truth.

    Args:
        value: the loss.
        gradient: (n, D), in the precision of the embeddings.
        exact_value: the loss without epsilon in float64.
        exact_gradient: (n, D), in float64.
    """
    exact = math.isfinite(exact_value) and bool(exact_gradient.isfinite().all())
    finite_value, finite_gradient = math.isfinite(value), bool(gradient.isfinite().all())
    # Rounded, for no precision can hold every gradient that float64 can.
    alive = (exact_gradient.to(gradient.dtype) != 0).any(dim=1) & exact
    live = gradient.isfinite().all(dim=1) & (gradient != 0).any(dim=1) & alive
    error = gradient_error = None
    if exact and finite_value and exact_value != 0:
        error = abs(value - exact_value) / abs(exact_value)
    if finite_gradient and bool(alive.any()):
        gradient_error = float((gradient.double() - exact_gradient).norm() / exact_gradient.norm())
    return Outcome(finite_value, finite_gradient, int(live.sum()), int(alive.sum()), error, gradient_error, exact)


def summarise(outcomes: list[Outcome]) -> dict[str, float | None]:
    """Metric -> number over some batches; None where no batch has it."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    gradient_errors = [outcome.gradient_error for outcome in outcomes if outcome.gradient_error is not None]
    alive = sum(outcome.alive for outcome in outcomes)
    return {
        "finite values": statistics.fmean(outcome.finite_value for outcome in outcomes),
        "finite gradients": statistics.fmean(outcome.finite_gradient for outcome in outcomes),
        "live gradients": sum(outcome.live for outcome in outcomes) / alive if alive else None,
        "relative error": statistics.median(errors) if errors else None,
        "largest relative error": max(errors, default=None),
        "gradient error": statistics.median(gradient_errors) if gradient_errors else None,
    }


def _grid_rows(outcomes: Outcomes, shared: Mapping[str, Any]) -> Iterator[Row]:
    conditions = {"all": GRID["magnitudes"]} | {
        f"logits {magnitude:g}": [magnitude] for magnitude in GRID["magnitudes"]
    }
    for method, precision, condition in product(DIVERGENCES, PRECISIONS, conditions):
        found = [outcome for magnitude in conditions[condition] for outcome in outcomes[method, precision, magnitude]]
        infinite = 1 - statistics.fmean(outcome.exact_is_finite for outcome in found)
        for metric, value in summarise(found).items():
            note = "" if value is not None else _reason(metric, found)
            if infinite and value is not None and metric not in ("finite values", "finite gradients"):
                note = f"infinite without epsilon on {infinite:.0%} of the batches, which do not count here"
            yield measured(metric, value, method=method, features=precision, condition=condition, note=note, **shared)


def _reason(metric: str, found: list[Outcome]) -> str:
    """Why a metric has no number."""
    if metric in ("live gradients", "gradient error") and not any(outcome.alive for outcome in found):
        return "the exact gradient is zero in this precision, so there is none to compare"
    return "not one batch is finite at these logits"


def _seconds_rows(repeats: int, shared: Mapping[str, Any]) -> Iterator[Row]:
    embeddings, targets = draw_inputs(0, TIMED["batch"])
    target = targets[TIMED["target"]].to(device())
    steps = {}
    for (precision, dtype), (method, divergence) in product(PRECISIONS.items(), DIVERGENCES.items()):
        names = list(embeddings)[: divergence.modalities]
        inputs = {name: (TIMED["magnitude"] * embeddings[name]).to(device(), dtype) for name in names}
        loss = divergence.build(TIMED["magnitude"])
        steps[method, precision] = lambda loss=loss, inputs=inputs: _step(loss, inputs, target)
    for (method, precision), value in median_seconds(steps, repeats).items():
        condition = f"batch {TIMED['batch']}"
        yield measured("seconds/step", value, method=method, features=precision, condition=condition, **shared)


def _hyperparameter_rows(shared: Mapping[str, Any]) -> Iterator[Row]:
    for method, divergence in DIVERGENCES.items():
        names = divergence.hyperparameters
        note = ", ".join(names) or f"none, its {CMPMKLLoss.epsilon:g} is fixed"
        columns = {"method": method, "features": "any precision", "condition": "all", "note": note}
        yield measured("hyperparameters", len(names), **columns, **shared)


def draw(outcomes: Outcomes, path: Path) -> None:
    """Draw finite gradients and median errors against logit magnitude, a column per precision.

    Args:
        outcomes: as :func:`run_grid` returns them.
        path: the PNG.
    """
    figure, grid = plt.subplots(
        len(DRAWN), len(PRECISIONS), figsize=(11, 8), sharex=True, sharey="row", layout="constrained"
    )
    for (row, metric), (column, precision) in product(enumerate(DRAWN), enumerate(PRECISIONS)):
        _draw_panel(grid[row, column], outcomes, precision, metric)
        grid[0, column].set_title(precision)
        grid[-1, column].set_xlabel("logit magnitude")
        grid[row, 0].set_ylabel(metric)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(DIVERGENCES), frameon=False
    )
    figure.suptitle(TITLE)
    save_figure(figure, path)


def _draw_panel(axes: Axes, outcomes: Outcomes, precision: str, metric: str) -> None:
    for number, (method, (colour, marker)) in enumerate(STYLES.items()):
        values = [summarise(outcomes[method, precision, magnitude])[metric] for magnitude in GRID["magnitudes"]]
        # Lines that coincide are set slightly apart.
        places = [magnitude * 1.1 ** (number - 3) for magnitude in GRID["magnitudes"]]
        line = "-" if method in LOG_SPACE else "--"
        values = [math.nan if value is None else value for value in values]
        axes.plot(places, values, line, color=colour, marker=marker, markersize=4.5, linewidth=1.2, label=method)
    axes.set_xscale("log")
    if metric != "finite gradients":
        axes.set_yscale("log")
    axes.minorticks_off()
    frame(axes)
