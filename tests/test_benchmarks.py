"""The benchmarks at tiny sizes: peers compute the same, ratios, failures, fresh processes and the command."""

import copy
import math

import pytest
import runner_cases
import torch
import yaml
from real_data import needs

from benchmarks import __main__ as command
from benchmarks import gpu, losses, plain, retrieval, training
from benchmarks.harness import Record, attempt, fresh, tensor_peak
from benchmarks.losses import Case
from benchmarks.plain import PlainJFSE
from lightning_modules.jfse import CRITIC_STEPS, NOISE_DIM
from losses import available_losses, build_loss
from reproduce.results.schema import read_table

undo_quiet = runner_cases.undo_quiet

pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode")

SHARED = {"table": "bench", "scale": "quick", "seeds": "0", "device": "here", "git_commit": "none"}
SHARED |= {"torch": torch.__version__, "config_hash": "0"}
TINY = training.Shape("tiny", 7, 5, width=8, batches=2, rounds=1, epochs=1)


@pytest.fixture
def record() -> Record:
    return Record("b", SHARED)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses at sizes of no interest; the larger one takes memory that can be seen after a call of 8."""
    monkeypatch.setattr(losses, "DIM", 8)
    monkeypatch.setattr(losses, "CENTRE", 256)
    monkeypatch.setattr(losses, "SETTINGS", {"repeats": {256: 1, 24: 1}, "modalities": {24: (2, 3)}})


def methods(record: Record, metric: str) -> set[str]:
    return {row.method for row in record.rows if row.metric == metric and row.status == "ok"}


def check_rows(record: Record, metric: str = "seconds/step") -> None:
    """That nothing failed, all that was asked was measured, and each time ratio is over the number that it names."""
    assert {row.status for row in record.rows} == {"ok"}
    assert record.faults == []
    assert "not measured" not in [cells[-1] for cells in record.asked]
    for row in [row for row in record.rows if row.metric == "time ratio"]:
        ours = row.note.rpartition(" over those of ")[2]
        seconds = [record.value(who, row.condition, metric) for who in (row.method, ours)]
        assert row.value == pytest.approx(seconds[0] / seconds[1], rel=1e-4)


# Rows, what is asked of them, and failures ---------------------------------------------------------------------------


def test_a_ratio_is_the_peers_number_over_ours_where_both_were_measured(record):
    ratios = []
    for metric, ours, theirs in (("seconds", 2.0, 5.0), ("peak MiB", 8.0, 2.0), ("seconds/step", 2.0, None)):
        record.add("we", "size", metric, ours)
        record.add("they", "size", metric, theirs, note="" if theirs else "no memory")
        ratios.append(record.ratio("they", "we", "size", metric))
    assert ratios == [2.5, 0.25, None]
    assert [record.value("they", "size", f"{kind} ratio") for kind in ("time", "memory")] == ratios[:2]
    assert (record.rows[-1].status, record.rows[-1].note) == ("failed", "no memory")


@pytest.mark.parametrize(
    ("value", "at_least", "said"),
    [(12.0, True, "met"), (7.5, True, "missed"), (7.5, False, "met"), (12.0, False, "missed"), (None, True, "not")],
)
def test_what_is_asked_says_whether_it_is_met(record, value, at_least, said):
    record.ask("asked", value, 10, at_least)
    assert record.asked[0][-1].split()[0] == said


def test_what_differs_or_fails_is_a_row_with_its_reason_of_one_line(record):
    assert record.compare("they", "near", lambda: ([1.0, 0.0], [1.0 + 1e-7, 0.0]), 1e-6) == ""
    for wrong in (1.1, math.nan, math.inf):
        assert "differ" in record.compare("they", "far", lambda wrong=wrong: ([1.0], [wrong]), 1e-6)
    assert len(record.faults) == 3
    assert "\n" not in attempt(lambda: int("a\nb"))[1]

    def exhausted() -> dict[str, float]:
        raise MemoryError("no memory left")

    runs = {"we": lambda: {"seconds": [2.0, 4.0]}, "they": exhausted}
    assert record.take_turns("size", runs, 2, ["seconds"]) == [{"seconds": [2.0, 4.0]}, None]
    assert record.value("we", "size", "seconds") == 3.0
    assert record.rows[-1].note == "MemoryError: no memory left"


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
    check_rows(record)
    names = {f"{loss} ({who})" for loss in (*losses.REGISTERED, "GRAM volumes") for who in ("ours", "plain")}
    assert methods(record, "seconds/step") == names
    assert methods(record, "peak MiB") == {name for name in names if "volumes" in name}
    sizes = {row.condition for row in record.rows if row.metric == "seconds/step"}
    large = {f"B = 24, M = {modalities}, D = 8, temperature 0.1" for modalities in (2, 3)}
    assert {size for size in sizes if size.startswith("B = 24")} == large
    assert len(record.asked) == 6


# Retrieval and fresh processes ---------------------------------------------------------------------------------------


def test_retrieval_and_a_large_batch_have_time_and_memory(record, monkeypatch):
    for module in (retrieval, losses):
        monkeypatch.setattr(module, "fresh", lambda work, **arguments: {**work(**arguments), "peak MiB": 2.0})
    shape, device = {"dim": 8, "classes": 10}, retrieval.device().type
    settings = {"sizes": [{"queries": 6, "items": 40, **shape}]}
    monkeypatch.setattr(retrieval, "SETTINGS", {**settings, "large": {device: {"queries": 3, "items": 90, **shape}}})
    monkeypatch.setattr(losses, "LARGE", {"modalities": 3, "dim": 16, "batch": {device: 32}})
    retrieval.measure(record)
    check_rows(record, "seconds")
    for metric in ("seconds", "peak MiB"):
        for contestant in (retrieval.OURS, retrieval.PEER):
            assert record.value(contestant, "6 queries, 40 items, D = 8", metric) > 0
        assert record.value(retrieval.OURS, "3 queries, 90 items, D = 8", metric) > 0
    assert record.value(retrieval.PEER, "6 queries, 40 items, D = 8", "largest relative error") <= 1e-6
    losses.measure_large(record)
    assert record.value("GCS (ours)", "B = 32, M = 3, D = 16, temperature 0.1", "seconds/step") > 0
    assert len(record.asked) == 4 + (device == "cpu")


@pytest.mark.slow
def test_a_fresh_process_tells_its_peak_or_why_it_failed():
    # Three similarity matrices of 16 MiB, which are kept, so few bytes are they.
    found = fresh(losses.timed_step, case=Case("GCS", 3, 2048, 16))
    assert 3 * 16 < found["peak MiB"] < 20 * 3 * 16
    assert found["seconds/step"] > 0
    with pytest.raises(ValueError, match="no loss"):
        fresh(build_loss, name="no loss")


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory of the CPU")
def test_the_peak_tensor_peak_counts_what_is_held_at_once():
    def work():
        mib = torch.zeros(1 << 18)
        held = [mib + 1, mib + 2]
        del held[0]
        return torch.cat([mib, mib])  # 2 MiB more, beside mib and what is left of held

    assert tensor_peak(work)["peak MiB"] == pytest.approx(4, abs=0.01)


# Training steps ------------------------------------------------------------------------------------------------------


def test_a_step_of_the_plain_schedule_moves_critics_and_generators_as_ours_does(monkeypatch):
    """The same batch and random numbers; the regressors then see generators that have moved, which in ours have not."""
    ours, data = TINY.model(), TINY.data()
    theirs = PlainJFSE(copy.deepcopy(ours), 2)
    draw, rows = torch.Generator().manual_seed(0), training.JFSE_BATCH
    noise = {name: torch.randn(rows, NOISE_DIM, generator=draw) for name in theirs.names}
    mixes = [{n: torch.rand(rows, 1, generator=draw) for n in theirs.names} for _ in range(CRITIC_STEPS)]
    monkeypatch.setattr(ours, "_draw", lambda a, batch_idx: (noise, mixes))
    before = copy.deepcopy(theirs.parts)
    training.epoch_seconds(ours, data, 0, limit_train_batches=1)
    tensors = {name: data.train_entries(name)[0] for name in data.dims} | {"label": data.train_labels_of_items()}
    theirs.step({name: x[:rows] for name, x in tensors.items()}, noise, mixes, strength=0.0)
    for part, own in ((0, ours.critics), (1, ours.generators)):
        assert any(not torch.equal(x, y) for x, y in zip(before[part].parameters(), own.parameters(), strict=True))
        for found, expected in zip(theirs.parts[part].parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_jfse_measures_steps_of_both(record, monkeypatch):
    monkeypatch.setattr(training, "SHAPES", [TINY])
    training.measure_jfse(record)
    check_rows(record)
    assert methods(record, "steps/s") == {"JFSE (ours)", "JFSE (plain)"}


# The command ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small", "undo_quiet")
def test_the_command_writes_table_report_settings_and_figure(tmp_path):
    assert command.main(["--only", "losses", "--out", str(tmp_path)]) == 0
    path = tmp_path / "bench-losses.csv"
    rows, size = read_table(path), "B = 256, M = 8, D = 8, temperature 0.1"
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

    monkeypatch.setitem(plain.PLAIN, "CS", lambda *given, **named: 1.001 * plain.cs(*given, **named))
    monkeypatch.setattr(command, "ALL", (losses.BENCHMARK, training.OF_JFSE._replace(measure=broken)))
    assert command.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "CS (plain)" in said
    assert "jfse: OSError: disk full" in said
    rows = read_table(tmp_path / "bench.csv")
    assert set(rows.query("status == 'failed'")["method"]) == {"CS (plain)", "benchmark"}
    assert {"CS (ours)", "GCS (plain)"} <= set(rows.query("status == 'ok'")["method"])


# On a GPU, tried on a CPU ---------------------------------------------------------------------------------------------


def test_what_a_gpu_is_asked_for_runs_on_a_cpu_and_differs_from_itself_in_nothing(record, monkeypatch):
    monkeypatch.setattr(gpu, "SETTINGS", {"batch": 16, "dim": 8, "steps": 2})
    gpu.measure(record)
    assert {row.value for row in record.rows} == {0.0}
    assert [cells[-1] for cells in record.asked] == ["met"]
    assert set(available_losses()) <= {row.method.partition(",")[0] for row in record.rows}
    gpu.measure_ceiling(record)
    check_rows(record)
    assert methods(record, "seconds/step") == {"GCS (ours)", "matrix products alone"}


def test_compiled_critics_come_to_the_same_weights(record, monkeypatch):
    small = {"dims": [7, 5], "class_dim": 3, "width": 8, "batch": 16, "rounds": 2}
    monkeypatch.setattr(gpu, "CRITICS", small)
    gpu.measure_critics(record)
    check_rows(record)
    assert methods(record, "seconds/step") == {"critics (ours)", "critics, compiled"}


@pytest.mark.slow
@needs("wikipedia")
def test_a_run_of_table_3_is_trained_and_scored(record, monkeypatch):
    monkeypatch.setattr(gpu, "PAPER", {**gpu.PAPER, "scale": "quick"})
    gpu.measure_paper(record)
    assert {row.status for row in record.rows} == {"ok"}
    maps = {row.condition.rpartition(", ")[2]: row.value for row in record.rows if row.metric == "MAP"}
    assert {"seen", "unseen"} <= set(maps)
    assert maps["seen"] > 0.3  # by chance it is about .2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    assert command.main(["--gpu", "--out", str(tmp_path)]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
