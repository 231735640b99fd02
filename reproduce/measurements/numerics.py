"""Table 1: how the divergences behave in finite precision, over a grid of inputs that strain them."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from losses import AlignmentLoss, CMPMKLLoss, CSLoss, GCSClampedLoss, GCSLoss, KLLoss
from losses.common.matching import unit
from losses.divergence import clamped_divergence
from losses.gcs import unshifted_softmax
from losses.registry import parameters
from reproduce.measurements.measures import Measured, command, device, measured, median_seconds
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


class CSClamped(CSLoss):
    """`cs` in the form of public code, as `gcs_clamped` is that of `gcs`."""

    def __init__(self, temperature: float = 0.1, epsilon: float = 1e-8):
        super().__init__(temperature)
        self.epsilon = epsilon

    def divergence(self, logits: Tensor, log_target: Tensor) -> Tensor:
        return clamped_divergence([unshifted_softmax(logits), log_target.exp()], self.epsilon)


class CSInOrdinarySpace(CSLoss):
    """`cs` with ordinary products of softmax probabilities instead of sums of their logarithms, and no epsilon.

    Its denominator is bounded as that of `cs` is; where the target's probability underflows its numerator is zero.
    """

    def divergence(self, logits: Tensor, log_target: Tensor) -> Tensor:
        return clamped_divergence([logits.log_softmax(dim=1).exp(), log_target.exp()], epsilon=0.0)


class Divergence(NamedTuple):
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
    settings: Mapping[str, Any] = {}

    def build(self, magnitude: float, exact: bool = False) -> AlignmentLoss:
        """The loss for embeddings of length `magnitude`, whose logits then lie within plus and minus `magnitude`."""
        temperature = {"temperature": 1 / magnitude} if "temperature" in parameters(self.loss) else {}
        return (self.exact if exact else self.loss)(**temperature, **self.settings)


DIVERGENCES = {
    "CS": Divergence(CSLoss, CSLoss),
    "GCS": Divergence(GCSLoss, GCSLoss, 3, {"scheme": "mixed"}),
    "KL, forward": Divergence(KLLoss, KLLoss),
    "CMPM-KL": Divergence(CMPMKLLoss, CMPMWithoutEpsilon),
    "CS, clamped": Divergence(CSClamped, CSLoss),
    "GCS, clamped": Divergence(GCSClampedLoss, GCSLoss, 3, {"scheme": "mixed"}),
    "CS, ordinary space": Divergence(CSInOrdinarySpace, CSLoss),
}
STYLES = dict(zip(DIVERGENCES, (*STYLE, ("#000000", "x")), strict=True))
LOG_SPACE = ("CS", "GCS", "KL, forward")
DRAWN = ("finite gradients", "relative error", "gradient error")

TEXT = f"""Embeddings of two modalities, for GCS three, {GRID["dim"]}-d, drawn so that the cosine of a pair lies
anywhere between -1 and 1: every batch holds well matched, badly matched and inverted pairs. They are scaled
to length m, the logit magnitude, and rounded to the precision; with temperature 1/m all losses see logits between -m
and m. Batches of {", ".join(map(str, GRID["batches"]))} are averaged over, and four targets: one-hot, multi-positive
(four items per class), uniform, and saturated (weight 1 for the pair, e^-20 to e^-80 elsewhere). CMPM-KL adds
{CMPMKLLoss.epsilon:g} to the target; the clamped forms raise every probability to {CSClamped().epsilon:g} and take
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


def measure(scale: Mapping[str, int], columns: Mapping[str, str]) -> Measured:
    """Table 1, over so many "seeds" of the grid and with so many "repeats" of a timed step."""
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


def run_grid(seeds: range, grid: Mapping[str, Any] = GRID) -> pd.DataFrame:
    """Every divergence on every point of the grid: a row per batch, what ``assess`` says with where it stands."""
    outcomes = []
    for seed, batch in product(seeds, grid["batches"]):
        embeddings, targets = draw_inputs(seed, batch)
        for target, magnitude, precision in product(grid["targets"], grid["magnitudes"], PRECISIONS):
            rounded = {name: (magnitude * x).to(device(), PRECISIONS[precision]) for name, x in embeddings.items()}
            place = {"precision": precision, "magnitude": magnitude}
            for method, outcome in _measure(rounded, targets[target].to(device()), magnitude):
                outcomes.append({"method": method, **place, **outcome})
    return pd.DataFrame(outcomes)


def _measure(rounded: dict[str, Tensor], target: Tensor, magnitude: int) -> Iterator[tuple[str, dict[str, float]]]:
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


def assess(value: float, gradient: Tensor, exact_value: float, exact_gradient: Tensor) -> dict[str, float]:
    """What a batch gave, against the truth.

    Args:
        value: the loss.
        gradient: (n, D), in the precision of the embeddings.
        exact_value: the loss without epsilon in float64.
        exact_gradient: (n, D), in float64.

    Returns:
        Whether value, gradient and truth are finite; how many of the "alive" embeddings, which should have a gradient,
        are "live", which have one; and the errors, NaN where there is no such.
    """
    exact = math.isfinite(exact_value) and bool(exact_gradient.isfinite().all())
    finite_value, finite_gradient = math.isfinite(value), bool(gradient.isfinite().all())
    # Rounded, for no precision can hold every gradient that float64 can.
    alive = (exact_gradient.to(gradient.dtype) != 0).any(dim=1) & exact
    live = gradient.isfinite().all(dim=1) & (gradient != 0).any(dim=1) & alive
    error = gradient_error = math.nan
    if exact and finite_value and exact_value != 0:
        error = abs(value - exact_value) / abs(exact_value)
    if finite_gradient and bool(alive.any()):
        gradient_error = float((gradient.double() - exact_gradient).norm() / exact_gradient.norm())
    counts = {"live": int(live.sum()), "alive": int(alive.sum()), "error": error, "gradient error": gradient_error}
    return {"finite value": finite_value, "finite gradient": finite_gradient, "finite truth": exact, **counts}


def summarise(outcomes: pd.DataFrame) -> dict[str, float]:
    """Metric -> number over some batches; NaN where no batch has it."""
    alive = outcomes["alive"].sum()
    return {
        "finite values": outcomes["finite value"].mean(),
        "finite gradients": outcomes["finite gradient"].mean(),
        "live gradients": outcomes["live"].sum() / alive if alive else math.nan,
        "relative error": outcomes["error"].median(),
        "largest relative error": outcomes["error"].max(),
        "gradient error": outcomes["gradient error"].median(),
    }


def _grid_rows(outcomes: pd.DataFrame, shared: Mapping[str, Any]) -> Iterator[Row]:
    of = dict(list(outcomes.groupby(["method", "precision"])))
    for key in product(DIVERGENCES, PRECISIONS):
        logits = [(f"logits {magnitude:g}", found) for magnitude, found in of[key].groupby("magnitude")]
        for condition, found in [("all", of[key]), *logits]:
            columns = {"method": key[0], "features": key[1], "condition": condition}
            infinite = 1 - found["finite truth"].mean()
            for metric, value in summarise(found).items():
                note = ""
                if math.isnan(value) and metric in ("live gradients", "gradient error") and not found["alive"].any():
                    note = "the exact gradient is zero in this precision, so there is none to compare"
                elif math.isnan(value):
                    note = "not one batch is finite at these logits"
                elif infinite and metric not in ("finite values", "finite gradients"):
                    note = f"infinite without epsilon on {infinite:.0%} of the batches, which do not count here"
                yield measured(metric, None if math.isnan(value) else float(value), **columns, note=note, **shared)


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
        names = parameters(divergence.loss)
        note = ", ".join(names) or f"none, its {CMPMKLLoss.epsilon:g} is fixed"
        columns = {"method": method, "features": "any precision", "condition": "all", "note": note}
        yield measured("hyperparameters", len(names), **columns, **shared)


def draw(outcomes: pd.DataFrame, path: Path) -> None:
    """Draw finite gradients and median errors against logit magnitude, a column per precision.

    Args:
        outcomes: as :func:`run_grid` returns them.
        path: the PNG.
    """
    figure, grid = plt.subplots(
        len(DRAWN), len(PRECISIONS), figsize=(11, 8), sharex=True, sharey="row", layout="constrained"
    )
    for (row, metric), (column, precision) in product(enumerate(DRAWN), enumerate(PRECISIONS)):
        _draw_panel(grid[row, column], outcomes[outcomes["precision"] == precision], metric)
        grid[0, column].set_title(precision)
        grid[-1, column].set_xlabel("logit magnitude")
        grid[row, 0].set_ylabel(metric)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(DIVERGENCES), frameon=False
    )
    figure.suptitle(TITLE)
    save_figure(figure, path)


def _draw_panel(axes: Axes, outcomes: pd.DataFrame, metric: str) -> None:
    for number, (method, (colour, marker)) in enumerate(STYLES.items()):
        of = outcomes[outcomes["method"] == method].groupby("magnitude")
        # Lines that coincide are set slightly apart.
        points = [(magnitude * 1.1 ** (number - 3), summarise(found)[metric]) for magnitude, found in of]
        line = "-" if method in LOG_SPACE else "--"
        axes.plot(*zip(*points, strict=True), line, color=colour, marker=marker, ms=4.5, lw=1.2, label=method)
    axes.set_xscale("log")
    if metric != "finite gradients":
        axes.set_yscale("log")
    axes.minorticks_off()
    frame(axes)


main = partial(
    command, "table1", TITLE, SCALES, {"grid": GRID, "precisions": list(PRECISIONS), "timed": TIMED}, measure
)
