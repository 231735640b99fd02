"""The metrics of result tables: what each may hold and how a value is shown."""

import math
import re
from dataclasses import dataclass, replace

DECIMALS = 6  # of a number in a table
RANKED = ("MAP", "MAP 11-point", "MAP 11-point plain")  # over the whole gallery
PULLS = ("true-positive gradient", "false-positive gradient")
PULLS_OF_THIRDS = tuple(f"{pull}, {third} third" for third in ("first", "last") for pull in PULLS)  # of the epochs
POSITIVE_METRICS = (*PULLS, *PULLS_OF_THIRDS, "false positives")


@dataclass(frozen=True)
class Metric:
    """What a metric's rows may hold: `k` is "all", "integer" or "none"; a fraction lies in [0, 1].

    `higher_is_better` is None where no value is the best, as of a gradient's norm or of what a measure is by chance.
    A metric of many magnitudes is kept to six significant digits, the others to six decimals. A distance has no usual
    size, so that it is shown with three significant digits.
    """

    k: str
    fraction: bool
    higher_is_better: bool | None
    least: float = 0
    many_magnitudes: bool = False
    distance: bool = False

    def takes(self, k: str) -> bool:
        """Whether `k` is what this metric's rows hold."""
        return (k.isdecimal() and k[0] != "0") if self.k == "integer" else k == ("all" if self.k == "all" else "")

    @property
    def expected_k(self) -> str:
        """What column k holds, for messages."""
        return {"all": "all", "integer": "an integer of at least 1", "none": "an empty cell"}[self.k]

    def text(self, value: float, of: float | None = None) -> str:
        """A value as people read it: fractions to three decimals, three digits of many magnitudes, ranks to two.

        Args:
            value: the number.
            of: the value whose deviation or difference it is; a distance takes its decimals from there.
        """
        if self.many_magnitudes:
            return f"{value:.3g}"
        if self.distance:
            return f"{value:.{_decimals_of_three_digits(value if of is None else of)}f}"
        return f"{value:.{3 if self.fraction else 2}f}"


def _decimals_of_three_digits(value: float) -> int:
    """Decimals that show three significant digits, but not more than a table keeps."""
    return min(max(2 - int(f"{value:.2e}".partition("e")[2]), 0), DECIMALS)


_SHARE = Metric(k="none", fraction=True, higher_is_better=True)
_COST = Metric(k="none", fraction=False, higher_is_better=False, many_magnitudes=True)
_DISTANCE = Metric(k="none", fraction=False, higher_is_better=False, distance=True)
_BY_CHANCE = replace(_DISTANCE, higher_is_better=None)
_RATE = Metric(k="none", fraction=False, higher_is_better=True, many_magnitudes=True)
METRICS = {
    **dict.fromkeys(RANKED, Metric(k="all", fraction=True, higher_is_better=True)),
    "R@k": Metric(k="integer", fraction=True, higher_is_better=True),
    "P@k": Metric(k="integer", fraction=True, higher_is_better=True),
    "MAP@k[min(R,k)]": Metric(k="integer", fraction=True, higher_is_better=True),
    "MedR": Metric(k="none", fraction=False, higher_is_better=False, least=1),
    "seconds/epoch": _COST,
    **dict.fromkeys(("finite values", "finite gradients", "live gradients"), _SHARE),
    **dict.fromkeys(("relative error", "largest relative error", "gradient error"), _COST),
    **dict.fromkeys(POSITIVE_METRICS, replace(_SHARE, higher_is_better=None)),
    "gradient norm": replace(_COST, higher_is_better=None),
    **dict.fromkeys(("hyperparameters", "seconds/step", "saved MiB"), _COST),
    **dict.fromkeys(("similarity matrices", "matching matrices"), _COST),
    "centroid distance": _DISTANCE,
    "linear separability": Metric(k="none", fraction=True, higher_is_better=False),
    "kernel CS": _DISTANCE,
    **dict.fromkeys(("centroid distance by chance", "kernel CS by chance"), _BY_CHANCE),
    **dict.fromkeys(("seconds", "peak MiB", "difference"), _COST),
    **dict.fromkeys(("steps/s", "items/s", "time ratio", "memory ratio"), _RATE),
    "exponent": Metric(k="none", fraction=False, higher_is_better=False, least=-math.inf),
    "standard error": Metric(k="none", fraction=False, higher_is_better=False),
}
RETRIEVAL = (*RANKED, "R@k", "P@k", "MAP@k[min(R,k)]", "MedR")


def metric_of(name: str) -> tuple[str, str]:
    """Metric and cut-off as the columns of a table hold them: "R@5" -> ("R@k", "5"), "MAP" -> ("MAP", "all")."""
    found = re.fullmatch(r"(MAP@|[RP]@)(\d+)(.*)", name)
    return (f"{found[1]}k{found[3]}", found[2]) if found else (name, "all" if name in RANKED else "")


def metric_name(metric: str, k: str) -> str:
    """The metric with its cut-off: ("R@k", "5") -> "R@5"."""
    return metric.replace("k", k, 1) if k.isdecimal() else metric
