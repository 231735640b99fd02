"""Regenerating a table, end to end on tiny data: what is trained and kept, what the files say, and what is refused."""

import math
import shutil
import statistics
from pathlib import Path

import pytest
import runner_cases
import torch
import yaml
from runner_cases import TINY, Outcome, command, kept, mtimes, rows_of, timeless
from test_training import write_pairs

import reproduce.__main__ as command_line
from reproduce.results.schema import COLUMNS, IDENTITY, read_table

tables, root = runner_cases.tables, runner_cases.root
SHARING = "extends: table2.yaml\ntitle: The same trainings\n"


@pytest.fixture(scope="module")
def finished(tables, root, tmp_path_factory):
    """The results folder of one whole run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("results")
    return folder, command(tables, "table2", "--data-root", root, "--out", folder, workers=True)


@pytest.fixture
def out(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "results")
    return tmp_path / "results"


# A whole run ---------------------------------------------------------------------------------------------------------


def test_a_run_trains_trials_then_seeds_and_writes_its_files(finished):
    folder, outcome = finished
    assert outcome.status == 0, outcome.err
    assert "6 runs to train for validation, 0 finished before" in outcome.out
    assert "8 runs to train for test, 0 finished before" in outcome.out
    assert outcome.out.index("for validation") < outcome.out.index("for test")
    assert len(kept(folder)) == 14
    assert {"table2.csv", "table2.md", "table2.yaml", "configs"} <= {path.name for path in folder.iterdir()}
    assert not [path.name for path in folder.rglob(".*")]
    assert "tiny" in (folder / "table2.md").read_text(encoding="utf-8")


def test_rows_hold_means_deviations_and_sizes_of_the_runs(finished, root):
    folder, _ = finished
    rows = rows_of(read_table(folder / "table2.csv"), status="ok")
    assert len(rows) == 4 * 3 * 2  # methods, directions with their average, metrics
    runs = kept(folder, "test").values()
    for row in rows:
        config = kept(folder)[row.config_hash]["config"]
        same = [c["result"] for c in runs if c["config"]["model"] == config["model"]]
        one = ["standard", "full", row.direction, row.metric, row.k]
        values = [score[5] for result in same for score in result["scores"] if score[:5] == one]
        assert len(values) == 2
        assert row.value == pytest.approx(statistics.mean(values), abs=1e-6)
        assert row.std == pytest.approx(math.sqrt(sum((v - statistics.mean(values)) ** 2 for v in values)), abs=1e-6)
        assert (row.metric, row.k) in (("MAP", "all"), ("R@k", "5"))
        assert row.direction == "average" or (row.n_queries, row.n_gallery) == (16, 16)
        assert (row.table, row.dataset, row.features, row.split, row.gallery) == (
            "table2", "tiny", "own", "standard", "full"
        )  # fmt: skip
        assert (row.protocol, row.scale, row.data_kind, row.seeds, row.note) == (
            "honest", "quick", "real", "0 1", ""
        )  # fmt: skip
        assert math.isnan(row.published)
        assert row.torch == torch.__version__
    assert str(root) not in (folder / "table2.csv").read_text(encoding="utf-8")
    assert tuple(timeless(folder / "table2.csv")[0]) == tuple(name for name in COLUMNS if name != "train_seconds")


def test_an_absent_data_set_gives_rows_with_the_reason(finished):
    folder, outcome = finished
    rows = rows_of(read_table(folder / "table2.csv"), dataset="absent")
    assert [row.method for row in rows] == ["CCA", "semantic matching", "JFSE", "JFSE + CS"]
    assert {row.status for row in rows} == {"not_run"}
    assert all("no folder absent/ under the data root" in row.note for row in rows)
    (said,) = [line for line in outcome.out.splitlines() if line.startswith("absent is not run (own): ")]
    assert "no folder absent/" in said


def test_the_setting_is_the_best_on_validation_and_the_final_runs_hold_nothing_out(finished):
    folder, _ = finished
    chosen = yaml.safe_load((folder / "table2.yaml").read_text())["chosen_on_validation"]["tiny/own"]
    assert set(chosen) == {"CCA", "semantic matching", "JFSE + CS"}
    configs = [one["config"] for one in kept(folder).values()]
    average = ["validation", "full", "average", "MAP"]
    of_runs = [s[5] for one in kept(folder).values() for s in one["result"]["scores"] if s[:4] == average]
    shown = [trial["validation MAP"] for entry in chosen.values() for trial in entry["trials"]]
    assert sorted(shown) == sorted(round(score, 6) for score in of_runs)
    for method, entry in chosen.items():
        scores = [trial.pop("validation MAP") for trial in entry["trials"]]
        assert entry["chosen"] == entry["trials"][scores.index(max(scores))]
        loss = entry["chosen"].pop("alignment", {})
        name = method.split(" + ")[0].replace("semantic matching", "SemanticMatching")
        finals = [
            config["model"]["init_args"]
            for config in configs
            if config["evaluate"]["on"] == "test" and config["model"]["class_path"].endswith(name)
            and ("alignment" in config["model"]["init_args"]) == ("+" in method)
        ]  # fmt: skip
        assert len(finals) == 2
        for arguments in finals:
            assert entry["chosen"].items() <= arguments.items()
            assert loss.items() <= arguments.get("alignment", {}).get("init_args", {}).items()
    for one in kept(folder).values():
        trial = one["config"]["evaluate"]["on"] == "validation"
        assert {score[0] for score in one["result"]["scores"]} == {"validation" if trial else "standard"}
        assert bool(one["config"]["data"]["init_args"]["validation_fraction"]) == trial


# What a second run does ----------------------------------------------------------------------------------------------


def test_a_second_run_trains_nothing(tables, root, out):
    before, files = mtimes(out), {p.name: p.read_bytes() for p in out.glob("table2.[cm]*")}
    outcome = command(tables, "table2", "--data-root", root, "--out", out)
    assert outcome.status == 0
    assert "to train" not in outcome.out
    assert mtimes(out) == before
    assert {p.name: p.read_bytes() for p in out.glob("table2.[cm]*")} == files


def test_a_dry_run_lists_the_runs_and_trains_none(tables, root, finished, tmp_path):
    call = ("table2", "--data-root", root, "--dry-run", "--out")
    fresh = command(tables, *call, tmp_path / "new")
    assert fresh.status == 0
    # Two trials each of CCA, semantic matching and JFSE + CS, and two seeds of all four.
    assert "table2: 14 runs to train, 0 finished; about" in fresh.out
    assert "tiny/own JFSE + CS, trial 2: " in fresh.out
    assert not (tmp_path / "new").exists()
    again = command(tables, *call, finished[0])
    assert "table2: 0 runs to train, 14 finished; about 0 s" in again.out
    assert again.out.count(": finished") == 14


def test_runs_are_deleted_only_where_told_to(out, capsys):
    runs = out / "runs" / "kept"
    before = sorted(runs.iterdir())
    assert command_line.main(["clean-runs", "--out", str(out)]) == 0
    assert sorted(runs.iterdir()) == before
    assert command_line.main(["clean-runs", "--out", str(out), "--yes"]) == 0
    assert list(runs.iterdir()) == []
    assert command_line.main(["clean-runs", "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(" in ")[0].partition(" (")[0] for line in told] == [
        *("would delete 14 finished runs", "deleted 14 finished runs", "nothing to delete")
    ]
    assert (out / "table2.csv").exists()


def test_tables_share_their_runs(tables, root, out, tmp_path):
    shutil.copytree(tables, tmp_path / "tables")
    (tmp_path / "tables" / "table3.yaml").write_text(SHARING)
    outcome = command(tmp_path / "tables", "table3", "--data-root", root, "--out", out)
    assert outcome.status == 0
    assert "to train" not in outcome.out
    one, two = timeless(out / "table2.csv"), timeless(out / "table3.csv")
    assert [{**row, "table": "table3"} for row in one] == two


def test_only_replaces_its_rows_and_keeps_the_others(tables, root, out):
    before, yaml_before = read_table(out / "table2.csv"), yaml.safe_load((out / "table2.yaml").read_text())
    only = ("--only", "method=CCA", "--seeds", "1")
    outcome = command(tables, "table2", "--data-root", root, "--out", out, *only)
    assert outcome.status == 0, outcome.err
    assert "to train" not in outcome.out
    after = read_table(out / "table2.csv")
    assert after[list(IDENTITY)].equals(before[list(IDENTITY)])
    changed = after[(after["seeds"] != before["seeds"]) & (after["status"] == "ok")]
    assert set(changed["method"]) == {"CCA"}
    assert set(changed["seeds"]) == {"1"}
    assert changed["std"].isna().all()
    assert after.drop(changed.index).equals(before.drop(changed.index))
    yaml_after = yaml.safe_load((out / "table2.yaml").read_text())
    assert yaml_after["chosen_on_validation"] == yaml_before["chosen_on_validation"]  # of every method still
    first, second = yaml_after["command"].splitlines()
    assert first == yaml_before["command"]
    assert "--only method=CCA --seeds 1" in second


def test_only_replaces_what_the_yaml_says_of_its_rows(tables, root, out):
    content = yaml.safe_load((out / "table2.yaml").read_text())
    chosen = content["chosen_on_validation"]["tiny/own"]
    right = chosen["CCA"]
    chosen["CCA"], chosen["another"] = {"chosen": {"components": 99}, "trials": []}, {"chosen": {}, "trials": []}
    (out / "table2.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert command(tables, "table2", "--data-root", root, "--out", out, "--only", "method=CCA").status == 0
    chosen = yaml.safe_load((out / "table2.yaml").read_text())["chosen_on_validation"]["tiny/own"]
    assert (chosen["CCA"], chosen["another"]) == (right, {"chosen": {}, "trials": []})
    (out / "table2.yaml").write_text("[", encoding="utf-8")
    outcome = command(tables, "table2", "--data-root", root, "--out", out, "--only", "method=CCA")
    assert (outcome.status, "table2.yaml" in outcome.err) == (2, True)


def test_only_on_an_empty_folder_writes_only_those_rows(tables, root, out):
    for file in out.glob("table2.*"):
        file.unlink()
    outcome = command(tables, "table2", "--data-root", root, "--out", out, "--only", "method=JFSE")
    assert outcome.status == 0, outcome.err
    assert set(read_table(out / "table2.csv")["method"]) == {"JFSE"}
    assert _said_written(outcome) == {*out.glob("table2*"), out / "comparisons" / "table2.csv", out / "configs"}
    content = yaml.safe_load((out / "table2.yaml").read_text())
    assert set(content) == {"table", "command", "scale", "chosen_on_validation"}


def _said_written(outcome: Outcome) -> set[Path]:
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("wrote ")]
    return {Path(name) for name in line.removeprefix("wrote ").split(", ")}


def test_a_metric_with_a_cut_off_and_a_denominator_is_shown(root, tmp_path):
    table = yaml.safe_load(runner_cases.TINY) | {"comparisons": [], "metrics": ["R@1", "MAP@10[min(R,k)]"]}
    table["methods"] = [{"method": "CCA", "model": "CCA", "init_args": {"components": 1}}]
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(table), encoding="utf-8")
    outcome = command(tmp_path, "table2", "--data-root", root, "--out", tmp_path / "out", "--seeds", "0")
    assert outcome.status == 0, outcome.err
    ((_, one),) = kept(tmp_path / "out").items()
    found = {tuple(s[2:5]): s[5] for s in one["result"]["scores"]}
    rows = rows_of(read_table(tmp_path / "out" / "table2.csv"), metric="MAP@k[min(R,k)]", k="10")
    assert [row.direction for row in rows] == ["image->text", "text->image", "average"]
    for row in rows:
        assert row.value == pytest.approx(found[row.direction, row.metric, row.k], abs=1e-6)
    assert "average MAP@10[min(R,k)]" in (tmp_path / "out" / "table2.md").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "table2.png").exists()  # it draws MAP
    assert _said_written(outcome) == {*(tmp_path / "out").glob("table2*"), tmp_path / "out" / "configs"}


# Zero-shot, and what fails -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(tables, root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    return folder, command(tables, "table3", "--data-root", root, "--out", folder)


def test_a_failing_run_is_reported_and_the_others_go_on(broken):
    folder, outcome = broken
    assert outcome.status == 1
    table = read_table(folder / "table3.csv")
    failed = rows_of(table, dataset="tiny", status="failed")
    assert {row.method for row in failed} == {"broken width", "broken rate", "broken seeds"}
    assert {row.split for row in failed} == {"seen", "unseen", "generalised"}
    assert len(rows_of(table, dataset="tiny", status="ok", method="JFSE")) == 3 * 3 * 2
    notes = {row.method: row.note for row in failed}
    reasons = [("broken rate", "learning rate"), ("broken width", "width is -1"), ("broken seeds", "seed 0: ")]
    assert all(reason in notes[method] for method, reason in reasons)
    assert outcome.err.count("failed: ") >= 3
    assert "Failed" in (folder / "table3.md").read_text(encoding="utf-8")


def test_the_unseen_classes_follow_the_seed(broken):
    folder, _ = broken
    finals = kept(folder, "test").values()
    assert {c["config"]["data"]["init_args"]["class_seed"] for c in finals} == {0, 1}
    assert all(c["config"]["data"]["init_args"]["class_seed"] == c["config"]["seed_everything"] for c in finals)
    recorded = yaml.safe_load((folder / "table3.yaml").read_text())["class_split_by_seed"]["tiny"]
    for one in finals:
        assert recorded[one["config"]["seed_everything"]]["unseen"] == list(one["result"]["unseen_classes"])
    rows = rows_of(read_table(folder / "table3.csv"), status="ok", split="generalised")
    directed = [row for row in rows if row.direction != "average"]
    assert {(row.n_queries, row.n_gallery) for row in directed} == {(8, 16)}


# Arguments, data roots and results folders ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["table7"], "table7"),
        (["tabel3"], "nearest: table3"),
        (["clams"], "nearest: claims"),
        (["nothing"], "there are: "),
        (["table2", "--scale", "huge"], "no scale 'huge'; there are quick, paper"),
        (["table2", "--only", "method"], "expected KEY=VALUE"),
        (["table2", "--only", "colour=red"], "KEY one of dataset, features, condition, method, protocol"),
        (["table2", "--only", "method="], "expected KEY=VALUE"),
        (["table2", "--only", "method=JSFE"], "JSFE: no row of table2 has it; there are: CCA; semantic matching;"),
        (["table2", "--only", "dataset=tyni"], "dataset=tyni: no row of table2 has it; there are: tiny; absent"),
        (["table2", "--only", "features=roph"], "features=roph: no row of table2 has it; there are: own"),
        (["table2", "--only", "condition=M = 4"], "condition=M = 4: no row of table2 has it; there are: none"),
        (["table2", "--only", "protocol=honst"], "protocol=honst: no row of table2 has it; there are: honest"),
        (["table2", "--seeds", "0", "0"], "expected different integers"),
        (["table2", "--seeds", "-1"], "none negative"),
        (["table2", "--seeds", "one"], "--seeds"),
        (["table2", "--executor", "slurm"], '"srun"'),
        (["table2", "--slurm", "partition=debug"], "--executor slurm"),
        (["table2", "--jobs", "0"], "--jobs 0"),
        (["table2", "--executor", "elsewhere"], "elsewhere"),
    ],
)
def test_bad_arguments_are_refused(tables, root, tmp_path, argv, message, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # with no command of Slurm
    outcome = command(tables, *argv, "--data-root", root, "--out", tmp_path, workers="--executor" in argv)
    assert outcome.status == 2
    assert message in outcome.err
    assert "to train" not in outcome.out
    assert not list(tmp_path.glob("table*"))


@pytest.mark.parametrize(("name", "said"), [("nowhere", "does not exist"), ("file", "is not a folder")])
def test_a_named_data_root_that_is_no_folder_is_refused(tables, tmp_path, name, said):
    (tmp_path / "file").touch()
    outcome = command(tables, "table2", "--data-root", tmp_path / name, "--out", tmp_path / "out")
    assert (outcome.status, name in outcome.err, said in outcome.err) == (2, True, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_named_data_root_without_any_of_the_data_sets_is_refused(tables, tmp_path, by, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("CSD_DATA", str(tmp_path / "data"))
    named = ["--data-root", tmp_path / "data"] if by == "argument" else []
    outcome = command(tables, "table2", *named, "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "holds none of the data sets of table2: tiny/, absent/" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_broken_data_set_is_an_error_and_not_a_missing_one(tables, tmp_path):
    write_pairs(tmp_path / "data" / "tiny")
    file = tmp_path / "data" / "tiny" / "pairs.npz"
    file.write_bytes(file.read_bytes()[:500])
    outcome = command(tables, "table2", "--data-root", tmp_path / "data", "--out", tmp_path / "out")
    assert outcome.status == 2
    assert "pairs.npz" in outcome.err


def test_without_data_the_table_is_synthetic_and_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    short = yaml.safe_load(TINY) | {"methods": [{"method": "JFSE", "model": "JFSE"}], "comparisons": []}
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(short))
    outcome = command(tmp_path, "table2", "--offline", "--seeds", "0")
    assert outcome.status == 0, outcome.err
    said = [number for number, line in enumerate(outcome.out.splitlines()) if "SYNTHETIC" in line]
    assert len(said) == 2
    assert said[1] == len(outcome.out.splitlines()) - 1
    assert not list((tmp_path / "results").glob("table*"))
    folder = tmp_path / "results" / "synthetic"
    assert "SYNTHETIC DATA" in (folder / "table2.md").read_text(encoding="utf-8")
    rows = read_table(folder / "table2.csv")
    assert len(rows_of(rows, status="ok", dataset="synthetic")) == 3 * 2
    assert set(rows["data_kind"]) == {"synthetic"}
    assert rows[["published", "delta"]].isna().all(axis=None)
