"""The figures that README and docs quote are those of results/: each is followed by a comment that names its row.

`.390 ± .003<!--table2; method=JFSE + CMPM-KL; features=roph-->` is a value and its deviation,
`-.005 (-.009 to -.002<!--...-->)` the difference of a comparison and its interval.
`python tests/test_quoted_figures.py` writes the figures anew after a table was made again; read the sentences too.
"""

import re
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.name != "situations.md"]
NUMBER = r"[-+]?[\d,]*\.?\d+"
SHOWN = "|".join([f"{NUMBER} ± {NUMBER}", rf"{NUMBER} \({NUMBER} to {NUMBER}", f"{NUMBER} to {NUMBER}", NUMBER])
QUOTED = re.compile(rf"(?P<shown>{SHOWN})(?P<unit> ?[^\s<\d(]*)<!--(?P<query>.*?)-->")
# A share with two digits or three, as MAP, R@k and separability are written.
SHARE = re.compile(r"(?<![\w.=/])[-+]?\.\d{2,3}\b")
USUAL = {"metric": "MAP", "direction": "average", "gallery": "full", "protocol": "honest", "status": "ok"}


@cache
def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "results" / f"{name}.csv", dtype=str, keep_default_na=False)


def _figures(query: str, shown: str) -> tuple[str, ...]:
    """What the results hold in place of ``shown``: one number, value and deviation, or difference and interval."""
    name, *conditions = [part.strip() for part in query.split(";")]
    wanted = dict(condition.split("=", 1) for condition in conditions)
    rows = _table(name)
    for column, value in {**{key: value for key, value in USUAL.items() if key in rows}, **wanted}.items():
        rows = rows[rows[column] == value]
    value = "difference" if name.startswith("comparisons/") else "value"
    assert len(rows) == 1, f"{query}: {len(rows)} rows of {name}.csv; a figure needs one"
    row = rows.iloc[0]
    if " to " in shown:
        ends = row["low"], row["high"]
        return (row[value], *ends) if "(" in shown else ends
    return (row[value], row["std"]) if "±" in shown else (row[value],)


def _written(number: str, as_in: str) -> str:
    """A number with the digits, the sign and the leading zero of another."""
    places = len(as_in.rpartition(".")[2]) if "." in as_in else 0
    text = f"{abs(float(number)):,.{places}f}"
    text = text if re.search(r"\d\.", as_in) else re.sub(r"^0\.", ".", text)
    signed = as_in[0] in "+-" or float(text.replace(",", "")) != 0  # an interval from -.0002 does not begin at +.000
    return f"-{text}" if float(number) < 0 and signed else f"+{text}" if as_in[0] in "+-" else text


def refreshed(text: str) -> str:
    """The page with every quoted figure as the results have it."""

    def replace(match: re.Match) -> str:
        found = iter(_figures(match["query"], match["shown"]))
        shown = re.sub(NUMBER, lambda number: _written(next(found), number[0]), match["shown"])
        return f"{shown}{match['unit']}<!--{match['query']}-->"

    return QUOTED.sub(replace, text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quoted_figures_are_those_of_the_results(page: Path):
    text = page.read_text(encoding="utf-8")
    assert text.count("<!--") == len(QUOTED.findall(text))
    assert refreshed(text) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_share_is_quoted_without_its_row(page: Path):
    text = QUOTED.sub("", page.read_text(encoding="utf-8"))
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert SHARE.findall(prose) == []


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
