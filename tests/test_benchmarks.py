"""The benchmarks at tiny sizes: peers compute the same, ratios, failures, fresh processes and the command."""

import copy
import math

import pytest
import runner_cases
import torch
import yaml

from benchmarks import __main__ as command
from benchmarks import gpu, harness, jfse, lavimo, losses, plain, retrieval
from benchmarks.harness import Disagreement, Record, Target, agree, attempt, fresh, train_in_turns
from benchmarks.losses import Case
from benchmarks.plain import PlainJFSE
from lightning_modules.jfse import CRITIC_STEPS, NOISE_DIM
from losses import available_losses, build_loss
from reproduce.results.schema import read_table

undo_quiet = runner_cases.undo_quiet

pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode")

SHARED = {"table": "bench", "scale": "quick", "seeds": "0", "device": "here", "git_commit": "none"}
SHARED |= {"torch": torch.__version__, "config_hash": "0"}
TINY = jfse.Shape("tiny", 7, 5, width=8, batches=2, rounds=1, epochs=1)


@pytest.fixture
def record() -> Record:
    return Record(SHARED)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses at sizes of no interest."""
    monkeypatch.setattr(losses, "DIM", 8)
    monkeypatch.setattr(losses, "CENTRE", 16)
    monkeypatch.setattr(losses, "SETTINGS", {"repeats": {16: 1, 24: 1}, "most": {24: 3}})


def methods(record: Record, metric: str) -> set[str]:
    return {row.method for row in record.rows if row.metric == metric and row.status == "ok"}


def check_ratios(record: Record, metric: str = "seconds/step") -> None:
    """That each time ratio is its contestant's number over that of the contestant that the note names."""
    for row in [row for row in record.rows if row.metric == "time ratio"]:
        ours = row.note.rpartition(" over those of ")[2]
        seconds = [record.value(row.split, who, row.condition, metric) for who in (row.method, ours)]
        assert row.value == pytest.approx(seconds[0] / seconds[1], rel=1e-4)


# Rows, targets and failures ------------------------------------------------------------------------------------------


def test_a_ratio_is_the_peers_number_over_ours_where_both_were_measured(record):
    for metric, ours, theirs in (("seconds", 2.0, 5.0), ("peak MiB", 8.0, 2.0), ("seconds/step", 2.0, None)):
        record.add("b", "we", "size", metric, ours)
        record.add("b", "they", "size", metric, theirs, note="" if theirs else "no memory")
        record.ratio("b", "they", "we", "size", metric)
    assert record.value("b", "they", "size", "time ratio") == 2.5
    assert record.value("b", "they", "size", "memory ratio") == 0.25
    assert (record.rows[-1].status, record.rows[-1].note) == ("failed", "no memory")


@pytest.mark.parametrize(
    ("value", "at_least", "said"),
    [(12.0, True, "met"), (7.5, True, "missed"), (7.5, False, "met"), (12.0, False, "missed"), (None, True, "not")],
)
def test_a_target_says_whether_it_is_met(value, at_least, said):
    assert Target("asked", value, 10, at_least).cells()[2].split()[0] == said


def test_a_difference_or_a_failure_becomes_a_reason_of_one_line():
    assert attempt(lambda: agree("a and b", 1e-7, 1e-6)) == (1e-7, "")
    for error in (1.1e-6, math.nan, math.inf):
        assert attempt(lambda error=error: agree("a and b", error, 1e-6))[1].startswith("Disagreement: a and b")
    assert "\n" not in attempt(lambda: int("a\nb"))[1]


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(("name", "modalities"), [("CS", 2), ("GCS", 3), ("GCS", 5), ("pairwise KL", 4), ("GRAM", 3)])
def test_plain_losses_have_the_values_and_gradients_of_ours(name, modalities, temperature):
    embeddings, labels = Case(name, modalities, batch=10, dim=6).inputs()
    wide = {key: x.detach().double().requires_grad_() for key, x in embeddings.items()}
    ours = build_loss(losses.REGISTERED[name], temperature=temperature)
    one = losses.step(lambda e, y: ours(e, y).total, wide, labels)
    two = losses.step(lambda e, y: plain.PLAIN[name](e, y, temperature), wide, labels)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("small")
def test_losses_measures_ours_and_the_plain_form_of_every_loss(record):
    losses.measure(record)
    names = {f"{loss} ({who})" for loss in losses.REGISTERED for who in ("ours", "plain")}
    assert methods(record, "seconds/step") == names
    assert {row.status for row in record.rows} == {"ok"}
    sizes = {row.condition for row in record.rows if row.metric == "seconds/step"}
    large = {f"B = 24, M = {modalities}, D = 8, temperature 0.1" for modalities in (2, 3)}
    assert {size for size in sizes if size.startswith("B = 24")} == large
    check_ratios(record)
    assert all(target.value is not None for target in losses.targets(record))


# Retrieval and fresh processes ---------------------------------------------------------------------------------------


def test_both_metrics_give_the_same_numbers_and_different_ones_are_refused():
    query, gallery = retrieval.draw(30, 16, 10, 1), retrieval.draw(50, 16, 10, 2)
    ours, theirs = retrieval.by_ours(query, gallery), retrieval.by_torchmetrics(query, gallery)
    assert retrieval.compare(ours, theirs) <= 1e-6
    with pytest.raises(Disagreement, match="MAP or R@k"):
        retrieval.compare(ours, {**theirs, "R@1": theirs["R@1"] - 1e-3})


def test_retrieval_and_a_large_batch_have_time_and_memory(record, monkeypatch):
    for module in (retrieval, losses):
        monkeypatch.setattr(module, "fresh", lambda work, **arguments: {**work(**arguments), "peak MiB": 2.0})
    shape, device = {"dim": 8, "classes": 10}, retrieval.device().type
    settings = {"sizes": [{"queries": 6, "items": 40, **shape}], "rounds": 2}
    monkeypatch.setattr(retrieval, "SETTINGS", {**settings, "large": {device: {"queries": 3, "items": 90, **shape}}})
    monkeypatch.setattr(losses, "LARGE", {"modalities": 3, "dim": 16, "batch": {device: 32, "cpu": 32}})
    retrieval.measure(record)
    for metric in ("seconds", "peak MiB"):
        for contestant in (retrieval.OURS, retrieval.PEER):
            assert record.value("retrieval", contestant, "6 queries, 40 items, D = 8", metric) > 0
        assert record.value("retrieval", retrieval.OURS, "3 queries, 90 items, D = 8", metric) > 0
    assert record.value("retrieval", retrieval.PEER, "6 queries, 40 items, D = 8", "difference") <= 1e-6
    check_ratios(record, "seconds")
    losses.measure_large(record)
    assert record.value("large-batch", "GCS (ours)", "B = 32, M = 3, D = 16, temperature 0.1", "seconds/step") > 0
    assert {row.status for row in record.rows} == {"ok"}
    assert all(target.value for target in (*retrieval.targets(record), *losses.targets_large(record)))


@pytest.mark.slow
def test_a_fresh_process_tells_its_peak_or_why_it_failed():
    # Three similarity matrices of 16 MiB, which are kept, so few bytes are they.
    found = fresh(losses.timed_step, case=Case("GCS", 3, 2048, 16))
    assert 3 * 16 < found["peak MiB"] < 20 * 3 * 16
    assert found["seconds/step"] > 0
    with pytest.raises(ValueError, match="no loss"):
        fresh(build_loss, name="no loss")


# Training steps ------------------------------------------------------------------------------------------------------


def test_a_step_of_the_plain_schedule_moves_critics_and_generators_as_ours_does(monkeypatch):
    """The same batch and random numbers; the regressors then see generators that have moved, which in ours have not."""
    ours, data = TINY.model(), TINY.data()
    theirs = PlainJFSE(copy.deepcopy(ours), 2)
    draw = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(jfse.BATCH, NOISE_DIM, generator=draw) for name in theirs.names}
    mixes = [{n: torch.rand(jfse.BATCH, 1, generator=draw) for n in theirs.names} for _ in range(CRITIC_STEPS)]
    monkeypatch.setattr(ours, "_draw", lambda a, batch_idx: (noise, mixes))
    before = copy.deepcopy(theirs.parts)
    harness.seconds_per_step(ours, data, 0, 1)
    tensors = {name: data.train_entries(name)[0] for name in data.dims} | {"label": data.train_labels_of_items()}
    batch = {name: x[: jfse.BATCH] for name, x in tensors.items()}
    theirs.step(batch, noise, mixes, strength=0.0)
    for part, own in ((0, ours.critics), (1, ours.generators)):
        assert any(not torch.equal(x, y) for x, y in zip(before[part].parameters(), own.parameters(), strict=True))
        for found, expected in zip(theirs.parts[part].parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_jfse_measures_steps_of_both(record, monkeypatch):
    for name in ("WIKIPEDIA", "AUTHORS"):
        monkeypatch.setattr(jfse, name, TINY._replace(name=name))
    jfse.measure(record)
    assert {row.status for row in record.rows} == {"ok"}
    assert methods(record, "steps/s") == {jfse.OURS, jfse.PEER}
    check_ratios(record)
    assert [target.value is None for target in jfse.targets(record)] == [False, False]


def test_a_contestant_that_cannot_train_is_a_row_with_its_reason(record):
    def exhausted() -> list[float]:
        raise MemoryError("no memory left")

    train_in_turns(record, "b", "size", {"we": lambda: [2.0], "they": exhausted}, 2, "items/s", 4, dataset="data")
    assert record.value("b", "we", "size", "items/s") == 2.0
    assert record.rows[-1].note == "MemoryError: no memory left"
    assert methods(record, "time ratio") == set()


@pytest.mark.slow
def test_lavimo_measures_cached_and_uncached_encoders_with_the_same_output(record, tmp_path, monkeypatch):
    for name, value in (("PIXELS", 64), ("BATCH", 4)):
        monkeypatch.setattr(lavimo, name, value)
    monkeypatch.setattr(lavimo, "SETTINGS", {"rounds": 1, "epochs": 1, "batches": 2, "items": 8})
    lavimo.measure(record)
    assert {row.status for row in record.rows} == {"ok"}
    assert methods(record, "items/s") == {lavimo.OURS, lavimo.PEER}
    vectors = []
    for contestant in (lavimo.OURS, lavimo.PEER):
        data = lavimo.RandomImages(tmp_path, batch_size=4)
        model = lavimo.build(contestant, data).eval()
        data.precompute(model.frozen_networks())
        with torch.no_grad():
            vectors.append(model.encode(next(iter(data.train_dataloader()))))
    for name, expected in vectors[0].items():
        torch.testing.assert_close(vectors[1][name], expected, rtol=1e-4, atol=1e-4)


# The command ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small", "undo_quiet")
def test_the_command_writes_table_report_settings_and_figure(tmp_path):
    assert command.main(["--only", "losses", "--out", str(tmp_path)]) == 0
    path = tmp_path / "bench-losses.csv"
    rows, size = read_table(path), "B = 16, M = 8, D = 8, temperature 0.1"
    [ratio] = rows.query("condition == @size and method == 'pairwise KL (ours)' and metric == 'time ratio'")["value"]
    (line,) = [line for line in path.with_suffix(".md").read_text().splitlines() if f"{size}: pairwise over" in line]
    assert f"| {ratio:.3g} | {'met' if ratio >= 3 else 'missed'} |" in line
    companion = yaml.safe_load(path.with_suffix(".yaml").read_text())
    assert companion["command"] == f"python -m benchmarks --only losses --out {tmp_path}"
    assert companion["threads"] == torch.get_num_threads()
    assert path.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.usefixtures("small", "undo_quiet")
def test_wrong_and_broken_contestants_are_refused_loudly_and_the_others_are_measured(tmp_path, capsys, monkeypatch):
    def broken(*given):
        raise OSError("disk full")

    monkeypatch.setitem(plain.PLAIN, "CS", lambda *given: 1.001 * plain.cs(*given))
    monkeypatch.setattr(command, "ALL", (losses.BENCHMARK, jfse.BENCHMARK._replace(measure=broken)))
    assert command.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "CS (plain)" in said
    assert "jfse: OSError: disk full" in said
    rows = read_table(tmp_path / "bench.csv")
    assert set(rows.query("status == 'failed'")["method"]) == {"CS (plain)", "benchmark"}
    assert {"CS (ours)", "GCS (plain)"} <= set(rows.query("status == 'ok'")["method"])


# On a GPU, tried on a CPU ---------------------------------------------------------------------------------------------


def test_what_a_gpu_is_asked_for_runs_on_a_cpu_and_differs_from_itself_in_nothing(record, monkeypatch):
    monkeypatch.setattr(gpu, "SETTINGS", {**gpu.SETTINGS, "batch": 16, "dim": 8, "steps": 2, "repeats": 1})
    gpu.measure(record)
    assert {row.note for row in record.rows} == {"largest relative error"}
    assert {row.value for row in record.rows} == {0.0}
    assert [target.cells()[-1] for target in gpu.targets(record)] == ["met"]
    assert set(available_losses()) <= {row.method.partition(",")[0] for row in record.rows}
    gpu.measure_ceiling(record)
    assert methods(record, "seconds/step") == {"GCS (ours)", "matrix products alone"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    assert command.main(["--gpu", "--out", str(tmp_path)]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
