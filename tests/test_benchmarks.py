"""The benchmarks at tiny sizes: who is measured, what is compared, ratios, floors, failures and the command."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import runner_cases
import torch
import yaml

from benchmarks import __main__ as command
from benchmarks import fresh, harness, jfse, large_batch, lavimo, losses, plain, report, retrieval, roofline
from benchmarks.harness import Disagreement, Record, Target, agree, attempt
from benchmarks.losses import Case
from benchmarks.roofline import COPY, EXPONENTIAL, PRODUCT, Part
from losses import build_loss
from reproduce.schema import read_table

undo_quiet = runner_cases.undo_quiet

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode"),
]

SHARED = {"table": "bench", "scale": "quick", "seeds": (0,), "device": "here", "git_commit": "none"}
SHARED |= {"torch": torch.__version__, "config_hash": "0"}
SMALL = {"product": 16, "exponential": 64, "copy": 64, "keys": 64, "repeats": 1}
CEILINGS = dict.fromkeys(roofline.UNITS, 1e9)


@pytest.fixture
def record() -> Record:
    return Record(SHARED)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every benchmark at sizes of no interest, on the processor."""
    for module in (roofline, losses, retrieval, large_batch, jfse):
        monkeypatch.setattr(module, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr(roofline, "SETTINGS", {"cpu": SMALL})
    monkeypatch.setattr(losses, "DIM", 8)
    monkeypatch.setattr(losses, "CENTRE", 16)
    monkeypatch.setattr(losses, "SCALES", {"quick": {"repeats": {16: 1, 24: 1}, "most": {24: 3}}})
    sizes = [{"queries": 6, "items": 40}]
    scale = {"sizes": sizes, "repeats": 1, "dim": 8, "classes": 10, "runs": 2}
    monkeypatch.setattr(retrieval, "SCALES", {"quick": scale})
    monkeypatch.setattr(retrieval, "LARGE", {"cpu": {"queries": 3, "items": 90, "dim": 8, "classes": 10}})
    monkeypatch.setattr(large_batch, "BATCH", {"cpu": 2048})
    checked = {"modalities": 3, "dim": 16, "checked": 32, "runs": {"cpu": 2}}
    monkeypatch.setattr(large_batch, "SCALES", {"quick": checked})


def methods(record: Record, metric: str, status: str = "ok") -> set[str]:
    return {row.method for row in record.rows if row.metric == metric and row.status == status}


# Rows, targets and failures


def test_a_ratio_is_the_peers_number_over_ours(record):
    for metric, ours, theirs in (("seconds", 2.0, 5.0), ("peak MiB", 8.0, 2.0)):
        record.add("b", "we", "size", metric, ours)
        record.add("b", "they", "size", metric, theirs)
        record.ratio("b", "they", "we", "size", metric)
    assert record.value("b", "they", "size", "time ratio") == 2.5
    assert record.value("b", "they", "size", "memory ratio") == 0.25
    assert record.rows[-1].note == "its peak MiB over those of we"


def test_there_is_no_ratio_to_a_contestant_that_failed(record):
    record.add("b", "we", "size", "seconds", 2.0)
    record.add("b", "they", "size", "seconds", None, note="no memory")
    record.ratio("b", "they", "we", "size", "seconds")
    assert [row.metric for row in record.rows] == ["seconds", "seconds"]
    assert (record.rows[1].status, record.rows[1].note) == ("failed", "no memory")


@pytest.mark.parametrize(
    ("value", "at_least", "said"),
    [
        (12.0, True, "met by 20%"),
        (10.0, True, "met by 0%"),
        (7.5, True, "missed by 25%"),
        (7.5, False, "met by 25%"),
        (12.0, False, "missed by 20%"),
        (None, True, "not measured"),
    ],
)
def test_a_target_says_whether_and_by_how_much_it_is_met(value, at_least, said):
    target = Target("asked", value, 10, at_least)
    assert target.cells()[2] == said
    assert target.met is {"met": True, "missed": False, "not": None}[said.split()[0]]


@pytest.mark.parametrize("error", [1.1e-6, math.nan, math.inf])
def test_an_error_beyond_the_tolerance_is_a_disagreement(error):
    assert agree("a and b", 1e-7, 1e-6) == 1e-7
    with pytest.raises(Disagreement, match=r"a and b differ by .*, more than 1e-06"):
        agree("a and b", error, 1e-6)


def test_a_failure_becomes_a_reason_of_one_line():
    assert attempt(lambda: 3) == (3, "")
    assert attempt(lambda: torch.zeros(2) @ torch.zeros(3))[1].startswith("RuntimeError: ")
    assert "\n" not in attempt(lambda: int("a\nb"))[1]


# The plain losses


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(
    ("name", "modalities"), [("CS", 2), ("GCS", 3), ("GCS", 5), ("pairwise KL", 4), ("InfoNCE", 2)]
)
def test_plain_losses_have_the_values_and_gradients_of_ours(name, modalities, temperature):
    embeddings, labels = Case(name, modalities, batch=10, dim=6).inputs()
    wide = {key: x.detach().double().requires_grad_() for key, x in embeddings.items()}
    ours = build_loss(losses.REGISTERED[name], temperature=temperature)
    one = losses.step(lambda e, y: ours(e, y).total, wide, labels)
    two = losses.step(lambda e, y: plain.PLAIN[name](e, y, temperature), wide, labels)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("matched", [False, True])
def test_effective_temperatures(matched):
    found = {name: Case(name, 3, 8, 4, matched).temperature for name in losses.REGISTERED}
    if not matched:
        assert set(found.values()) == {losses.TEMPERATURE}
    else:
        expected = {"GCS": 0.4, "CS": 0.2, "pairwise KL": 0.1, "InfoNCE": 0.1}
        assert found == pytest.approx(expected)


@pytest.mark.parametrize(("name", "modalities"), [("CS", 2), ("GCS", 3), ("GCS", 5), ("pairwise KL", 4)])
def test_the_floor_counts_the_products_that_a_step_of_ours_computes(name, modalities):
    case = Case(name, modalities, batch=12, dim=6)
    embeddings, labels = case.inputs()
    counted = roofline.counted_flops(lambda: losses.step(case.ours(), embeddings, labels))
    assert case.parts()[0].amounts[PRODUCT] == counted


# Benchmark: losses


@pytest.mark.usefixtures("small")
def test_losses_measures_ours_and_the_plain_form_of_every_loss(record):
    losses.measure(record, "quick", CEILINGS)
    names = {f"{loss} ({who})" for loss in losses.REGISTERED for who in ("ours", "plain")}
    assert methods(record, "seconds/step") == names
    assert {row.status for row in record.rows} == {"ok"}
    sizes = {row.features for row in record.rows if row.metric == "seconds/step"}
    large = {f"B = 24, M = {modalities}, D = 8, temperature 0.1" for modalities in (2, 3)}
    assert {size for size in sizes if size.startswith("B = 24")} == large
    assert all(row.value <= losses.TOLERANCE for row in record.rows if row.metric == "largest relative error")
    for row in [row for row in record.rows if row.metric == "time ratio"]:
        ours = row.note.rpartition(" over those of ")[2]
        seconds = [record.value("losses", who, row.features, "seconds/step") for who in (row.method, ours)]
        assert row.value == pytest.approx(seconds[0] / seconds[1], rel=1e-4)
    assert methods(record, "exponent") == {"GCS (ours)", "pairwise KL (ours)"}
    assert all(target.value is not None for target in losses.targets(record))
    assert methods(record, "times the floor") == {"GCS (ours)", "GCS (plain)"}


@pytest.mark.usefixtures("small")
def test_a_wrong_contestant_is_refused_loudly_and_not_timed(record, monkeypatch):
    monkeypatch.setitem(plain.PLAIN, "GCS", lambda *given: 1.001 * plain.gcs(*given))
    losses.measure(record, "quick", CEILINGS)
    assert "GCS (plain)" not in methods(record, "seconds/step") | methods(record, "time ratio")
    assert "GCS (ours)" in methods(record, "seconds/step")
    wrong = record.disagreements()
    assert wrong
    assert all("GCS (plain)" in fault and "more than 0.0001" in fault for fault in wrong)


@pytest.mark.usefixtures("small")
def test_a_contestant_that_cannot_run_is_a_row_with_its_reason(record, monkeypatch):
    def exhausted(*given):
        raise MemoryError("no memory left")

    monkeypatch.setitem(plain.PLAIN, "CS", exhausted)
    # Beyond what is counted for GCS and KL at these sizes, where forms are not tried at all.
    monkeypatch.setattr(losses, "bytes_needed", lambda case: 9e12 if case.modalities == 8 else 0.0)
    losses.measure(record, "quick", CEILINGS)
    failed = [row for row in record.rows if row.metric == "seconds/step" and row.status == "failed"]
    assert {(row.method, row.note) for row in failed} == {("CS (plain)", "MemoryError: no memory left")}
    skipped = [row for row in record.rows if row.status == "not_run"]
    assert {row.method for row in skipped} == {"GCS (plain)", "pairwise KL (plain)"}
    assert all("about 9000.0 GB" in row.note for row in skipped)
    assert record.disagreements() == []


def test_what_a_plain_form_would_keep_is_counted_and_grows_with_the_square_of_the_batch():
    small, large = (losses.bytes_needed(Case("GCS", 3, batch, 8)) for batch in (64, 128))
    assert large == 4 * small
    # At least a log-softmax for each of the six matching distributions.
    assert small >= 6 * 64**2 * 4


# Benchmark: retrieval


def test_both_metrics_give_the_same_numbers_and_different_ones_are_refused():
    query, gallery = retrieval.draw(30, 16, 10, 1), retrieval.draw(50, 16, 10, 2)
    ours, theirs = retrieval.by_ours(query, gallery), retrieval.by_torchmetrics(query, gallery)
    assert 0.15 < ours["MAP"] < 0.99
    assert retrieval.compare(ours, theirs) <= 1e-6
    with pytest.raises(Disagreement, match="MAP or R@k"):
        retrieval.compare(ours, {**theirs, "R@1": theirs["R@1"] - 1e-3})


def test_drawn_items_are_the_same_again_in_blocks_of_any_size(monkeypatch):
    whole = retrieval.draw(50, 4, 7, 1)
    again = retrieval.draw(50, 4, 7, 1)
    monkeypatch.setattr(retrieval, "BLOCK", 20)
    blocks = retrieval.draw(50, 4, 7, 1)
    assert torch.equal(whole[0][0], again[0][0])
    assert [len(ids) for _, _, ids in blocks] == [20, 20, 10]
    assert torch.equal(torch.cat([ids for _, _, ids in blocks]), whole[0][2])


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_retrieval_measures_time_and_memory_of_both_and_the_large_gallery(record):
    retrieval.measure(record, "quick", CEILINGS)
    small, large = "6 queries, 40 items, D = 8", "3 queries, 90 items, D = 8"
    for metric in ("seconds", "peak MiB"):
        for contestant in (retrieval.OURS, retrieval.PEER):
            assert record.value("retrieval", contestant, small, metric) > 0
        assert record.value("retrieval", retrieval.OURS, large, metric) > 0
    assert record.value("retrieval", retrieval.PEER, small, "difference") <= 1e-6
    seconds = [record.value("retrieval", who, small, "seconds") for who in (retrieval.PEER, retrieval.OURS)]
    assert record.value("retrieval", retrieval.PEER, small, "time ratio") == pytest.approx(
        seconds[0] / seconds[1], rel=1e-4
    )
    assert [target.value is None for target in retrieval.targets(record)] == [False] * 3
    assert {row.status for row in record.rows} == {"ok"}


# Fresh processes


@pytest.mark.slow
def test_a_fresh_process_that_fails_says_why():
    arguments = {"contestant": "nobody", "queries": 1, "items": 1, "dim": 2, "classes": 1}
    with pytest.raises(RuntimeError, match="KeyError: 'nobody'"):
        fresh.measure("retrieval:run_once", arguments)


@pytest.mark.slow
def test_a_fresh_process_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(fresh, "LIMIT_SECONDS", 0.2)
    with pytest.raises(RuntimeError, match=r"took longer than 0\.2 seconds"):
        fresh.measure("large_batch:run_once", {"modalities": 2, "batch": 4, "dim": 2})


# Benchmark: large batch


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_large_batch_has_time_memory_and_a_share_of_the_ceiling(record):
    large_batch.measure(record, "quick", CEILINGS)
    size = "B = 2,048, M = 3, D = 16, temperature 0.1"
    seconds = record.value("large-batch", large_batch.OURS, size, "seconds/step")
    share = record.value("large-batch", large_batch.OURS, size, "share of ceiling")
    assert share == pytest.approx(3 * 2 * 3 * 2048**2 * 16 / seconds / CEILINGS[PRODUCT], rel=1e-4)
    matrices = 3 * 4 * 2048**2 / 2**20  # which are kept, so few bytes are they
    assert matrices < record.value("large-batch", large_batch.OURS, size, "peak MiB") < 20 * matrices
    checked = size.replace("2,048", "32")
    assert record.value("large-batch", large_batch.PLAIN, checked, "largest relative error") <= 1e-5
    assert [target.bound for target in large_batch.targets(record)] == [1e-5, 1.5]


# Benchmark: JFSE

TINY = jfse.Shape({"image": 7, "text": 5, "class_embedding": 6}, 8, 2 * jfse.BATCH, "tiny")


def test_the_plain_schedule_trains_the_same_networks():
    ours, theirs = jfse.build(TINY, 1)
    pairs = [("regressors", theirs.regressors), ("generators", theirs.generators)]
    for part, plain_part in [*pairs, ("modality_classifier", theirs.classifier)]:
        shapes = [p.shape for p in getattr(ours, part).parameters()]
        assert [p.shape for p in plain_part.parameters()] == shapes
    for name in ("image", "text"):
        feature, condition, score = ours.critics[name].children()
        whole = (8, feature.weight.shape[1] + condition.weight.shape[1])
        expected = [whole, (8,), tuple(score.weight.shape), tuple(score.bias.shape)]
        assert [tuple(p.shape) for p in theirs.critics[name].parameters()] == expected
    count = sum(p.numel() for p in ours.parameters())
    assert count == sum(p.numel() for part in theirs.parts for p in part.parameters())


def test_a_step_of_the_plain_schedule_moves_critics_and_generators_as_ours_does(monkeypatch):
    """The same batch and random numbers; the regressors then see generators that have moved, which in ours have not."""
    shape = replace(TINY, pairs=jfse.BATCH)
    ours, theirs = jfse.build(shape, 2)
    data = jfse.RandomFeatures(shape.dims, shape.pairs, 4)
    draw = torch.Generator().manual_seed(0)
    rows = (jfse.BATCH, jfse.NOISE_DIM)
    noise = {name: torch.randn(rows, generator=draw) for name in theirs.names}
    mixes = [{n: torch.rand(jfse.BATCH, 1, generator=draw) for n in theirs.names} for _ in range(jfse.CRITIC_STEPS)]
    monkeypatch.setattr(ours, "_draw", lambda a, batch_idx: (noise, mixes))
    before = [p.detach().clone() for p in theirs.generators.parameters()]
    jfse.fit(ours, data, jfse.EpochClock(), max_epochs=1)
    batch = {**data.train_features(), "label": torch.from_numpy(data.arrays("train")[1])}
    theirs.step(batch, noise, mixes, strength=0.0)
    moved = [bool((p != q).any()) for p, q in zip(theirs.generators.parameters(), before, strict=True)]
    assert all(moved)
    after = {name: p.detach().clone() for name, p in _named(theirs)}
    jfse.copy_weights(ours, theirs)
    for name, p in _named(theirs):
        if name.startswith(("0", "1")):
            torch.testing.assert_close(after[name], p.detach(), rtol=0, atol=1e-5, msg=lambda m, name=name: name + m)


def _named(model):
    return [(f"{i} {name}", p) for i, part in enumerate(model.parts) for name, p in part.named_parameters()]


def test_another_critic_disagrees():
    ours, theirs = jfse.build(TINY, 1)
    assert jfse.compare(ours, theirs, TINY) <= jfse.TOLERANCE
    with torch.no_grad():
        theirs.critics["image"][0].bias.add_(0.1)
    with pytest.raises(Disagreement, match="critics' loss or gradient"):
        jfse.compare(ours, theirs, TINY)


@pytest.mark.slow
@pytest.mark.usefixtures("small", "undo_quiet")
def test_jfse_measures_steps_of_both_the_authors_schedule_and_testing(record, monkeypatch):
    monkeypatch.setattr(jfse, "DIMS", TINY.dims)
    monkeypatch.setattr(jfse, "AUTHORS", TINY.dims)
    monkeypatch.setattr(jfse, "AUTHORS_WIDTH", 4)
    monkeypatch.setattr(jfse, "PAIRS", 2 * jfse.BATCH)
    monkeypatch.setattr(jfse, "TIMED", {"wikipedia": (2173, 20)})
    authors = {"batches": 2, "epochs": 1}
    monkeypatch.setattr(jfse, "SCALES", {"quick": {"widths": [8], "rounds": 1, "epochs": 1, "authors": authors}})
    jfse.measure(record, "quick", CEILINGS)
    assert {row.status for row in record.rows} == {"ok"}
    assert methods(record, "steps/s") == {jfse.OURS, jfse.PEER}
    for row in [row for row in record.rows if row.metric == "extrapolated seconds"]:
        size = next(r.features for r in record.rows if r.features.startswith("authors' sizes"))
        per_step = record.value("jfse", row.method, size, "seconds/step")
        assert row.value == pytest.approx(500 * 33 * per_step, rel=1e-4)
        assert row.note.startswith("extrapolated from 2 timed steps; the authors report 82.13 seconds")
    (tested,) = [row for row in record.rows if row.metric == "seconds"]
    assert "20 pairs" in tested.features
    assert "0.83 seconds" in tested.note
    assert len(jfse.targets(record)) == 2
    assert {row.metric for row in record.rows if row.method == "floor"} == {"floor seconds"}


# Benchmark: LAVIMO


@pytest.mark.slow
@pytest.mark.usefixtures("undo_quiet")
def test_lavimo_measures_cached_and_uncached_encoders_on_generated_items(record, tmp_path, monkeypatch):
    monkeypatch.setenv("CSD_DATA", str(tmp_path))
    monkeypatch.setattr(lavimo, "PIXELS", 64)
    monkeypatch.setattr(lavimo, "BATCH", 4)
    settings = {"rounds": 1, "epochs": 1, "batches": 2, "items": 8}
    monkeypatch.setattr(lavimo, "SCALES", {"quick": settings})
    lavimo.measure(record, "quick", CEILINGS)
    assert {row.status for row in record.rows} == {"ok"}
    assert {(row.dataset, row.data_kind) for row in record.rows} == {("random images", "synthetic")}
    assert methods(record, "items/s") == {lavimo.OURS, lavimo.PEER}
    floors = {row.method: row.value for row in record.rows if row.metric == "floor seconds"}
    # The networks themselves are what the cache saves.
    assert floors[f"floor of {lavimo.PEER}"] > 20 * floors[f"floor of {lavimo.OURS}"]
    assert record.value("lavimo", lavimo.PEER, "batches of 4", "largest relative error") <= 1e-4


# Ceilings, floors and the command


@pytest.mark.usefixtures("small")
def test_ceilings_are_measured_and_recorded(record):
    ceilings = roofline.measure_ceilings(record)
    ceilings["sort"] = roofline.sorted_keys(record, 16)
    assert all(rate > 0 for rate in ceilings.values())
    recorded = [row.value for row in record.rows]
    assert recorded == pytest.approx([rate / 1e9 for rate in ceilings.values()], rel=1e-4)
    assert record.rows[-1].features == "sorted int32 keys, rows of 16"


def test_a_floor_adds_what_waits_and_takes_the_longer_of_what_does_not(record):
    ceilings = {PRODUCT: 10.0, COPY: 4.0, EXPONENTIAL: 2.0}
    parts = [Part("products", {PRODUCT: 20, COPY: 12}), Part("exponentials", {EXPONENTIAL: 2})]
    record.add("b", "we", "size", "seconds/step", 6.0)
    record.add("b", "they", "size", "seconds/step", None, note="no memory")
    roofline.add_floor(record, "b", "size", parts, ceilings, {"we": "mm 50%", "they": ""})
    assert record.value("b", "floor", "size", "floor seconds") == 4.0
    assert record.value("b", "we", "size", "times the floor") == 1.5
    assert record.value("b", "they", "size", "times the floor") is None
    assert next(row.note for row in record.rows if row.method == "floor") == "of it products 75%, exponentials 25%"


def test_shares_of_a_profile_in_words():
    spent = {"mm": 0.5, "exp": 0.2, "add": 0.1, "mul": 0.05}
    assert roofline.named_shares(spent.items(), 1.0, most=2) == (
        "mm 50%, exp 20%, other operators 15%, outside operators 15%"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the profile names kernels")
def test_a_profile_names_the_operators():
    profile = roofline.Profile()
    profile.start()
    torch.mm(torch.rand(200, 200), torch.rand(200, 200))
    assert "aten::mm" in profile.stop()


@pytest.mark.usefixtures("small", "undo_quiet")
def test_the_command_writes_table_report_settings_and_figure(tmp_path, capsys):
    assert command.main(["--only", "losses", "--out", str(tmp_path)]) == 0
    path = tmp_path / "bench-losses.csv"
    rows = read_table(path)
    assert {row.split for row in rows} == {"roofline", "losses"}
    text = path.with_suffix(".md").read_text()
    (line,) = [line for line in text.splitlines() if "M = 8" in line and "temperature 0.1: all pairs" in line]
    size = "B = 16, M = 8, D = 8, temperature 0.1"
    (ratio,) = [r.value for r in rows if (r.features, r.method, r.metric) == (size, "pairwise KL (ours)", "time ratio")]
    assert f"| {ratio:.3g} | {'met' if ratio >= 3 else 'missed'} by {abs(ratio / 3 - 1):.0%} |" in line
    assert "the floor is" in text
    companion = yaml.safe_load(path.with_suffix(".yaml").read_text())
    assert companion["command"] == f"python -m benchmarks --only losses --out {tmp_path}"
    assert companion["threads"] == torch.get_num_threads()
    assert path.with_suffix(".png").stat().st_size > 10_000
    assert "wrote" in capsys.readouterr().out


@pytest.mark.usefixtures("small", "undo_quiet")
def test_the_command_fails_where_a_contestant_is_wrong_but_writes_all_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(plain.PLAIN, "CS", lambda *given: -plain.cs(*given))
    assert command.main(["--only", "losses", "--out", str(tmp_path)]) == 1
    assert "CS (plain)" in capsys.readouterr().err
    assert "failed" in {row.status for row in read_table(tmp_path / "bench-losses.csv")}


@pytest.mark.usefixtures("small", "undo_quiet")
def test_a_benchmark_that_breaks_down_leaves_the_others_and_says_so(tmp_path, capsys, monkeypatch):
    def broken(*given):
        raise OSError("disk full")

    monkeypatch.setattr(losses, "measure", broken)
    monkeypatch.setattr(command, "BENCHMARKS", {"losses": losses})
    assert command.main(["--out", str(tmp_path)]) == 1
    assert "losses: OSError: disk full" in capsys.readouterr().err
    rows = read_table(tmp_path / "bench.csv")
    assert {(row.split, row.status) for row in rows} == {("losses", "failed"), ("roofline", "ok")}


@pytest.mark.usefixtures("undo_quiet")
def test_a_file_in_place_of_the_folder_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *given: pytest.fail("it started to work"))
    (tmp_path / "results").write_text("a file")
    assert command.main(["--out", str(tmp_path / "results")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_real_data_are_named_where_the_rest_is_generated(record):
    record.add("lavimo", "we", "size", "items/s", 3.0, dataset="flickr8k_tri", data_kind="real")
    assert "All inputs are generated but those of lavimo, which reads flickr8k_tri." in report.text(record, [])
    assert harness.LIMIT_BYTES == 8e9
