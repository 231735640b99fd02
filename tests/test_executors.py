"""Training runs in jobs, on a stand-in for Slurm: which are kept, lost and reported, and what is refused."""

import os
import re
import signal
import stat
import sys
from functools import partial
from pathlib import Path

import pytest
import runner_cases
import submitit
from runner_cases import mtimes, rows_of, timeless

from reproduce.results.schema import read_table
from reproduce.runs.executors import Jobs, Run, train
from reproduce.runs.plan import Plan
from reproduce.runs.spec import read_file
from reproduce.runs.store import RunStore

tables, root = runner_cases.tables, runner_cases.root
command = partial(runner_cases.command, workers=True)  # with the executor that the words name

# Slurm's commands, which number jobs by their own process. The file "mode" says what becomes of a job: it runs, from
# another folder; or is lost; or all are held, and whoever asks about them is interrupted; or the second
# one is refused.
COMMANDS = {
    "sbatch": """
count=$(ls "$here" | grep -c '[.]job$')
cp "$1" "$here/$$.job"
case "$(cat "$here/mode")-$count" in
    refuse-1) echo "sbatch: error: Job violates accounting/QOS policy" >&2; exit 1 ;;
    lose-*) echo NODE_FAIL > "$here/$$.state" ;;
    hold-* | refuse-*) echo PENDING > "$here/$$.state" ;;
    *)
        echo RUNNING > "$here/$$.state"
        export SLURM_JOB_ID=$$ SLURM_JOB_NAME=csd SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 SLURM_LOCALID=0
        (cd /; bash "$here/$$.job"; echo COMPLETED > "$here/$$.state") > "$here/$$.out" 2>&1 &
        ;;
esac
echo "Submitted batch job $$"
""",
    "srun": """
while [ "${1#--}" != "$1" ]; do
    case "$1" in
        --output) output=$2; shift ;;
        --error) error=$2; shift ;;
    esac
    shift
done
path() { echo "$1" | sed "s/%j/$SLURM_JOB_ID/; s/%t/$SLURM_PROCID/"; }
exec "$@" > "$(path "$output")" 2> "$(path "$error")"
""",
    "sacct": """
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do
    [ "$1" = -j ] && [ -e "$here/$2.state" ] && echo "$2|$(cat "$here/$2.state")|node"
    shift
done
if [ "$(cat "$here/mode")" = hold ]; then kill -INT $PPID; fi
""",
    "scancel": """
echo CANCELLED > "$here/$1.state"
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The folder of the stand-in's commands, jobs and their states."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/sh\nhere={folder}\n{text}")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes have it ignored
    yield folder
    signal.signal(signal.SIGINT, before)


def _states(slurm: Path) -> list[str]:
    return [path.read_text().strip() for path in sorted(slurm.glob("*.state"))]


def _runs(tables: Path, root: Path, folder: Path) -> tuple[list[Run], RunStore]:
    store = RunStore(folder / "kept")
    plan = Plan(read_file("table2", tables), "quick", str(root), [0], store)
    return plan.execute(plan.available(), dry=True), store


# What a job does -----------------------------------------------------------------------------------------------------


def test_a_job_keeps_its_run_and_trains_none_that_is_there(tables, root, tmp_path):
    [run, *_], store = _runs(tables, root, tmp_path)
    arguments = (run.key, run.config, str(root), store.folder, True)
    assert train(*arguments) == ""
    assert store.load(run.key).scores
    before = (store.folder / f"{run.key}.json").stat().st_mtime_ns
    assert train(*arguments) == ""
    assert (store.folder / f"{run.key}.json").stat().st_mtime_ns == before


def test_a_job_refuses_other_data_or_code_than_it_was_submitted_with_and_says_what_went_wrong(
    tables, root, tmp_path, capsys
):
    [run, *_], store = _runs(tables, root, tmp_path)
    assert "code or data changed" in train("0" * 16, run.config, str(root), store.folder, True)
    broken = {**run.config, "data": {"class_path": "OwnData", "init_args": {"dataset": "absent"}}}
    assert "absent" in train("0" * 16, broken, str(root), store.folder, True)
    assert "Traceback" in capsys.readouterr().err  # of the job's log
    assert not store.folder.exists()


@pytest.mark.slow
def test_jobs_make_what_the_pool_makes_and_one_that_is_killed_is_reported(tables, root, tmp_path, monkeypatch):
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)  # how long a result of a job that ended is waited for
    runs, store = _runs(tables, root, tmp_path)
    jobs = Jobs(tmp_path / "runs" / "jobs", 1, cluster="local")
    found = {run.key: error for run, error in jobs(runs[:2], str(root), store)}
    assert found == {run.key: "" for run in runs[:2]}
    assert all(store.load(run.key) for run in runs[:2])
    ended = jobs(runs[2:3], str(root), store)
    submit = jobs.executor.submit

    def killed(*arguments: object) -> submitit.Job:
        job = submit(*arguments)
        os.kill(int(job.job_id), signal.SIGKILL)
        return job

    monkeypatch.setattr(jobs.executor, "submit", killed)
    [(_, error)] = ended
    assert re.search(r"ended as .* without a result .*log: .*err", error)


# Slurm ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lost_job_fails_its_row_and_the_same_command_trains_it_from_another_folder(
    tables, root, tmp_path, slurm, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 1)
    (slurm / "mode").write_text("lose")
    argv = ("table2", "--data-root", os.path.relpath(root), "--out", "out", "--only", "method=JFSE", "--seeds", "0")
    asked = (*argv, "--executor", "slurm", "--slurm", "partition=debug", "timeout_min=7")
    outcome = command(tables, *asked)
    assert outcome.status == 1
    assert "its job ended as NODE_FAIL" in outcome.err
    assert {row.status for row in rows_of(read_table(tmp_path / "out" / "table2.csv"), dataset="tiny")} == {"failed"}
    (slurm / "mode").write_text("run")
    assert command(tables, *asked).status == 0
    assert command(tables, *argv[:3], "--out", "pool", *argv[5:]).status == 0
    assert timeless(tmp_path / "out" / "table2.csv") == timeless(tmp_path / "pool" / "table2.csv")
    for script in slurm.glob("*.job"):
        assert {"#SBATCH --partition=debug", "#SBATCH --time=7"} <= set(script.read_text().splitlines())
    assert len(mtimes(tmp_path / "out")) == 1


def test_an_interrupt_cancels_every_job_on_slurm(tables, root, tmp_path, slurm):
    (slurm / "mode").write_text("hold")
    argv = ("table2", "--data-root", root, "--out", tmp_path / "out", "--only", "method=JFSE", "--executor", "slurm")
    outcome = command(tables, *argv)
    assert outcome.status == 130
    assert "jobs cancelled: 2" in outcome.err
    assert _states(slurm) == ["CANCELLED"] * 2


def test_a_job_that_slurm_refuses_cancels_the_others(tables, root, tmp_path, slurm):
    (slurm / "mode").write_text("refuse")
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path / "out", "--executor", "slurm")
    assert outcome.status == 2
    assert "sbatch: error: Job violates accounting/QOS policy" in outcome.err
    assert _states(slurm) == ["CANCELLED"]


@pytest.mark.parametrize(("word", "named"), [("colour=red", "colour"), ("partition", "key=value")])
def test_wrong_parameters_of_slurm_are_refused(tables, root, tmp_path, slurm, word, named):
    argv = ("table2", "--data-root", root, "--out", tmp_path / "out", "--executor", "slurm", "--slurm", word)
    outcome = command(tables, *argv)
    assert (outcome.status, named in outcome.err) == (2, True)


def test_without_submitit_the_extra_to_install_is_named(tables, root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    outcome = command(tables, "table2", "--data-root", root, "--out", tmp_path / "out", "--executor", "slurm")
    assert (outcome.status, "csd-retrieval[cluster]" in outcome.err) == (2, True)
