"""What ``csd test`` and ``csd validate`` print of the scores that they log."""

from collections.abc import Mapping, Sequence

import pandas as pd

IN_MATRICES = ("MAP", "R@1")


def score_tables(results: Sequence[Mapping[str, float]], matrices: Sequence[str] = IN_MATRICES) -> str:
    """Tables of the scores of an evaluation, each score once.

    A score is logged as ``<part>/<direction>/<metric>``, e.g. ``test/seen/image->text/MAP``: its part heads a column,
    the rest names a row. Of three modalities and more, the rows are the averages over the directions, and the
    directions stand in matrices of query by gallery, one for each part and chosen metric.

    Args:
        results: as ``Trainer.test`` returns them: one mapping per DataLoader, each with all scores.
        matrices: the chosen metrics; one that there is not is answered with those that there are.
    """
    scores = {name: value for result in results for name, value in result.items()}
    split = [["", "", *name.rsplit("/", 2)][-3:] for name in scores]
    table = pd.DataFrame(split, columns=["part", "direction", "metric"]).assign(score=scores.values())
    table["row"] = (table["direction"] + "/" + table["metric"]).str.lstrip("/")
    paired = table["direction"].str.contains("->")
    many = table["direction"][paired].nunique() > 2
    tables = [_text(table[~paired] if many else table, "row", "part")]
    table[["query", "gallery"]] = table["direction"].str.partition("->")[[0, 2]]
    wanted = table[paired & table["metric"].isin(matrices) & many]
    for (part, metric), cells in wanted.groupby(["part", "metric"], sort=False):
        tables.append(f"{part}, {metric} of query (row) -> gallery (column)\n{_text(cells, 'query', 'gallery')}")
    known = table["metric"][paired].unique()
    tables += [f"There is no {metric}, but {', '.join(known)}." for metric in matrices if many and metric not in known]
    return "\n\n".join(tables)


def _text(cells: pd.DataFrame, rows: str, columns: str) -> str:
    """Scores in four digits, by row and column in their first order, a dash where there is none."""
    wide = cells.pivot(index=rows, columns=columns, values="score").loc[cells[rows].unique(), cells[columns].unique()]
    if set(wide.columns) <= set(wide.index):  # a matrix has its diagonal, joint queries are further rows
        wide = wide[[name for name in wide.index if name in wide.columns]]
    return wide.rename_axis(index=None, columns=None).to_string(float_format="{:.4f}".format, na_rep="-")
