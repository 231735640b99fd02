"""The configuration beside a table: `csd fit --config` with it gives the number of its row."""

import csv
from pathlib import Path

import pytest
from real_data import require
from runner_cases import command, rows_of, shorten

from lightning_modules import cli
from reproduce.results.schema import read_table


@pytest.mark.parametrize(
    ("name", "dataset", "arguments", "only"),
    [
        ("table3", "wikipedia", {"width": 16}, ["method=JFSE + CS", "features=roph"]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("table3", "wikipedia", {"width": 16}, ["method=CCA", "features=roph"]),
                ("table2", "wikipedia", {"width": 16}, ["method=JFSE + CS", "features=roph", "protocol=as_published"]),
                ("table7", "utd_mhad", {"dim": 16}, ["method=GCS mixed, tau 0.4"]),
            )
        ),
    ],
)
def test_csd_fit_of_a_configuration_gives_the_number_of_its_row(
    name: str, dataset: str, arguments: dict, only: list[str], tmp_path: Path
) -> None:
    require(dataset)
    shorten(name, tmp_path, epochs=2, **arguments)
    words = [word for each in only for word in ("--only", each)]
    out = tmp_path / "results"
    assert command(tmp_path, name, "--out", out, *words).status == 0
    table = read_table(out / f"{name}.csv")
    [key] = set(table["config_hash"])
    fit = tmp_path / "fit"
    cli.main(["fit", "--config", str(out / "configs" / f"{key}.yaml"), "--trainer.default_root_dir", str(fit)])
    [metrics] = fit.glob("csv/version_*/metrics.csv")
    with metrics.open(encoding="utf-8") as lines:
        logged = {k: float(v) for row in csv.DictReader(lines) for k, v in row.items() if v and k.startswith("test/")}
    for row in rows_of(table, metric="MAP", gallery="full"):
        assert logged[f"test/{row.split}/{row.direction}/MAP"] == pytest.approx(row.value, abs=1e-5)
