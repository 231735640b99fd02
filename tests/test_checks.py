"""What a table's file says is checked when it is read: numbers, names, types, metrics, and files that extend others."""

from __future__ import annotations

from pathlib import Path
from string import Template

import pytest

from datamodules import DataError
from lightning_modules import CMPM, JFSE, LAVIMO, CSAligner
from reproduce import checks, results
from reproduce.cells import CellStore
from reproduce.runner import Run
from reproduce.spec import SpecError, load_table

TABLE = """
title: A table
metrics: [MAP, $METRIC]
datasets:
  - dataset: moves
    features: own
    class_path: SyntheticItems
    init_args: {names: [text, motion], $DATA}
    model: {encoders: {motion: {name: pose_conv, $ENCODER}}, $ON_IT}
    galleries: [batches-32, $GALLERY]
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems, init_args: {$DATA}}
methods:
  - {method: GCS, model: LAVIMO, alignment: {name: gcs, scheme: mixed, $LOSS},
     init_args: {$INIT}, trials: [{$TRIAL}], $ROW}
  - {method: KL, model: CMPM, alignment: kl}
scales: {quick: {seeds: $SEEDS, max_epochs: 2, model: {$ALL}, models: {LAVIMO: {$OWN}}}}
$TOP
"""
# What stands for a word of the table that a test does not change.
PLAIN = {"METRIC": "R@5", "GALLERY": "threshold-0.95", "SEEDS": "[0, 1]", "TOP": "class_split: standard"}
PLAIN |= {"TRIAL": "dropout: 0.1", "ROW": "preset: honest"}


def _load(folder: Path, **changes: str):
    words = dict.fromkeys(("DATA", "ENCODER", "ON_IT", "LOSS", "INIT", "ALL", "OWN"), "") | PLAIN | changes
    (folder / "table9.yaml").write_text(Template(TABLE).substitute(words), encoding="utf-8")
    return load_table("table9", folder)


def test_a_table_without_a_fault_is_read(tmp_path: Path) -> None:
    table = _load(tmp_path)
    assert [method.method for method in table.methods] == ["GCS", "KL"]
    assert table.scales["quick"].seeds == [0, 1]


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "1E-3", "0.001"])
def test_a_number_may_be_written_in_any_form(tmp_path: Path, number: str) -> None:
    table = _load(tmp_path, ALL=f"learning_rate: {number}", INIT=f"weight_decay: {number}", TRIAL=f"dropout: {number}")
    method = table.methods[0]
    found = [
        table.scales["quick"].model["learning_rate"],
        method.init_args["weight_decay"],
        method.trials[0]["dropout"],
    ]
    assert found == [0.001] * 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # a text, an empty value or a number of another kind in the place of a number
        ({"ALL": "learning_rate: '0.001'"}, ["scales.quick.model", "learning_rate", "'0.001'", "a text", "number"]),
        ({"INIT": "dim: 8.5"}, ["GCS: init_args", "dim is 8.5", "an integer"]),
        ({"INIT": "dim: eight"}, ["GCS: init_args", "dim is 'eight'", "a text", "an integer"]),
        ({"TRIAL": "dropout: "}, ["GCS: trials", "dropout is None", "a number"]),
        ({"LOSS": "temperature: 'low'"}, ["GCS", "temperature is 'low'", "a text", "a number"]),
        ({"TRIAL": "alignment: {temperature: '0.1'}"}, ["GCS", "temperature is '0.1'", "a text", "a number"]),
        ({"ROW": "matched_temperature: low"}, ["GCS", "matched_temperature", "'low'", "a number"]),
        ({"ON_IT": "dropout: no"}, ["moves/own: model", "dropout is False", "a number"]),
        ({"ENCODER": "frozen: 1"}, ["encoder of 'motion'", "frozen"]),
        # misspelt names
        ({"INIT": "dimm: 8"}, ["GCS: init_args", "'dimm'", "nearest: dim"]),
        ({"TRIAL": "droput: 0.1"}, ["GCS: trials", "'droput'", "nearest: dropout"]),
        ({"ALL": "learning_rte: 0.1"}, ["scales.quick.model", "'learning_rte'", "nearest: learning_rate"]),
        ({"ALL": "reconstruct: motion"}, ["scales.quick.model, for CMPM", "'reconstruct'"]),
        ({"OWN": "dimm: 8"}, ["scales.quick.models.LAVIMO", "'dimm'", "nearest: dim"]),
        ({"ON_IT": "recnstruct: motion"}, ["moves/own: model", "'recnstruct'"]),
        ({"DATA": "batch_sise: 8"}, ["moves/own: init_args", "'batch_sise'", "nearest: batch_size"]),
        ({"ROW": "data: {pared_fraction: 0.5}"}, ["GCS: data", "'pared_fraction'", "nearest: paired_fraction"]),
        ({"ENCODER": "widht: 8"}, ["moves/own: model", "encoder of 'motion'", "'widht'", "nearest: width"]),
        ({"LOSS": "shceme: mixed"}, ["GCS", "'gcs'", "'shceme'", "nearest: scheme"]),
        ({"INIT": "alignment: kl"}, ["GCS: init_args", "'alignment'"]),
        ({"DATA": "data_root: /data"}, ["moves/own: init_args", "'data_root'"]),
        # values that nothing takes
        ({"DATA": "batch_size: 0"}, ["moves/own", "batch_size is 0"]),
        ({"DATA": "class_split: zeroshot"}, ["moves/own", "'zeroshot'", "'standard' or 'zero-shot'"]),
        ({"TOP": "class_split: zeroshot"}, ["class_split", "'zeroshot'", "'standard' or 'zero-shot'"]),
        ({"ROW": "preset: published"}, ["GCS", "'published'", "'honest' or 'as_published'"]),
        ({"LOSS": "temperature: -1"}, ["GCS", "temperature", "-1"]),
        ({"GALLERY": "batchs-32"}, ["moves/own: galleries", "'batchs-32'", "batches-32"]),
        ({"GALLERY": "batches-32"}, ["moves/own: galleries", "'batches-32'", "twice"]),
        ({"TOP": "galleries: [batches-64]"}, ["galleries", "'batches-64'"]),
        ({"SEEDS": "[]"}, ["scales.quick.seeds", "empty"]),
        ({"SEEDS": "[0, -1]"}, ["scales.quick", "seeds", "[0, -1]", "0 or more"]),
        ({"SEEDS": "[0, 0]"}, ["scales.quick.seeds", "0 twice"]),
        ({"SEEDS": "[0.5]"}, ["scales.quick", "[0.5]", "integers"]),
        ({"SEEDS": "['0']"}, ["scales.quick", "['0']", "integers"]),
        ({"SEEDS": "[0], min_steps: [10, 0]"}, ["scales.quick", "min_steps", "[10, 0]"]),
        ({"SEEDS": "[0], min_steps: [10, 10]"}, ["scales.quick.min_steps", "10 twice"]),
        ({"SEEDS": "3"}, ["scales.quick", "seeds is 3", "integers"]),
        ({"SEEDS": "[0], max_epochs: 0"}, ["max_epochs", "stands twice"]),
        ({"TOP": "comparisons: [[GCS, LK]]"}, ["comparisons", "'LK'", "nearest: KL"]),
        ({"TOP": "comparisons: [[GCS, GCS]]"}, ["comparisons", "['GCS', 'GCS']"]),
        ({"TOP": "comparisons: [[GCS, KL], [GCS, KL]]"}, ["comparisons", "['GCS', 'KL']", "once"]),
        ({"TOP": "title: Again"}, ["line ", "'title' stands twice"]),
        # metrics
        ({"METRIC": "R@20"}, ["'R@20'", "GCS", "nearest: R@10", "MedR", "MAP@5[min(R,k)]", "kernel CS"]),
        ({"METRIC": "R@3"}, ["'R@3'", "KL", "R@5", "`ks` of CMPM"]),  # LAVIMO computes it, CMPM does not
        ({"METRIC": "mAP"}, ["'mAP'", "nearest: MAP"]),
        ({"METRIC": "MAP@10"}, ["'MAP@10'", "MAP@10[min(R,k)]"]),
        ({"METRIC": "'MAP@10[k]'"}, ["'MAP@10[k]'", "MAP@10[min(R,k)]"]),
        ({"METRIC": "MAP"}, ["metrics", "'MAP' twice"]),
        ({"METRIC": "5"}, ["metrics", "5", "texts"]),
        ({"METRIC": "kernel CS by chance"}, ["by chance", "kernel CS"]),
        ({"OWN": "ks: [0]"}, ["ks", "[0]"]),
    ],
    ids=str,
)
def test_a_fault_is_refused_where_the_file_is_read(tmp_path: Path, changes: dict[str, str], named: list[str]) -> None:
    with pytest.raises(SpecError) as refusal:
        _load(tmp_path, **changes)
    said = str(refusal.value)
    assert said.startswith("table9.yaml")
    assert [word for word in named if word not in said] == [], said


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("model: LAVIMO, alignment: {name: gcs, scheme: mixed, $LOSS}", "model: LAVIMO", ["GCS", "alignment: cs"]),
        ("model: CMPM, alignment: kl", "model: CCA, alignment: kl", ["KL", "alignment", "CCA"]),
        ("model: CMPM, alignment: kl", "model: semantic matching", ["KL", "C missing"]),
        ("model: CMPM, alignment: kl", "model: semantic matching, init_args: {C: low}", ["KL", "C is 'low'", "number"]),
        ("model: CMPM, alignment: kl", "model: CCA, trials: [{ridge: 0}]", ["KL: trials", "ridge is 0"]),
        ("model: CMPM, alignment: kl", "model: CCA, trials: [{rigde: 1}]", ["KL: trials", "'rigde'", "nearest: ridge"]),
        ("model: CMPM, alignment: kl", "model: CCA, init_args: {components: 2}", ["moves", "KL", "leaves_out"]),
        ("model: CMPM, alignment: kl", "model: JFSE", ["moves", "KL", "JFSE", "leaves_out"]),
        ("model: CMPM,", "model: CMPM, preset: as_published,", ["KL", "as_published", "CMPM"]),
        ("{name: pose_conv, $ENCODER}", "{name: pose_cnv}", ["moves/own", "'motion'", "'pose_cnv'", "pose_conv"]),
        ("{name: pose_conv, $ENCODER}", "pose_cnv", ["moves/own", "encoders", "'pose_cnv'", "mapping"]),
        ("{motion: {name: pose_conv, $ENCODER}}", "[pose_conv]", ["moves/own: model", "encoders"]),
        ("{quick:", "{quik:", ["scales.quik", "nearest: quick"]),
        ("models: {LAVIMO:", "models: {LAVMO:", ["scales.quick.models", "'LAVMO'", "nearest: LAVIMO"]),
        ("SyntheticItems, init_args", "Synthetic, galleries: [batches-32], init_args", ["synthetic", "galleries"]),
        ("trials: [{$TRIAL}]", "trials: {$TRIAL}", ["GCS", "trials", "list"]),
        ("trials: [{$TRIAL}]", "trials: [{alignment: kl}]", ["GCS", "alignment 'kl'"]),
    ],
)
def test_models_and_data_that_do_not_go_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, named: list[str]
) -> None:
    assert old in TABLE
    monkeypatch.setattr(f"{__name__}.TABLE", TABLE.replace(old, new))
    with pytest.raises(SpecError) as refusal:
        _load(tmp_path)
    assert [word for word in named if word not in str(refusal.value)] == [], refusal.value


def test_an_adapter_is_checked_as_an_encoder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = TABLE
    for adapter, word in (("{name: mpl}", "mlp"), ("{name: mlp, hiden: 8}", "nearest: hidden")):
        row = f"model: CSAligner, init_args: {{adapter: {adapter}}}"
        monkeypatch.setattr(f"{__name__}.TABLE", plain.replace("model: CMPM, alignment: kl", row))
        with pytest.raises(SpecError, match=f"KL: init_args: adapter.*{word}"):
            _load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "{motion: {name",
            "{motoin: {name",
            "moves/own: model names 'motoin', no modality of the data; nearest: motion",
        ),
        ("$ON_IT", "reconstruct: motoin", "moves/own: model names 'motoin', no modality of the data; nearest: motion"),
        ("motion], $DATA", "motion], modalities: [text, motoin]", "no modality 'motoin'"),
    ],
)
def test_modalities_are_compared_with_the_data_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, named: str
) -> None:
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    alone = TABLE.replace("  - {method: KL, model: CMPM, alignment: kl}\n", "")
    assert old in alone
    monkeypatch.setattr(f"{__name__}.TABLE", alone.replace(old, new))
    run = Run(_load(tmp_path), "quick", None, [0], CellStore(tmp_path))
    with pytest.raises((SpecError, DataError)) as refusal:
        run.available()
    assert named in str(refusal.value)


def test_a_method_without_training_steps_has_a_metric_of_retrieval(tmp_path: Path) -> None:
    table = """
      title: A table
      metrics: [seconds/epoch]
      datasets: [{dataset: wikipedia, features: roph, class_path: Wikipedia}]
      synthetic: {dataset: synthetic, features: synthetic, class_path: Synthetic}
      methods: [{method: Linear, model: CCA}]
      scales: {quick: {seeds: [0], max_epochs: 1, model: {}}}
    """
    (tmp_path / "table9.yaml").write_text(table, encoding="utf-8")
    with pytest.raises(SpecError, match=r"metrics holds none that Linear has.*add MAP"):
        load_table("table9", tmp_path)


@pytest.mark.parametrize("ks", ["[1, 5, 20]", "[20, 5]"])
def test_cut_offs_that_the_models_are_given_can_be_shown(tmp_path: Path, ks: str) -> None:
    assert _load(tmp_path, METRIC="R@20, P@5", ALL=f"ks: {ks}").metrics == ["MAP", "R@20", "P@5"]
    with pytest.raises(SpecError, match=r"'R@10'.*there are: MAP, "):
        _load(tmp_path, METRIC="R@10", ALL=f"ks: {ks}")
    with pytest.raises(SpecError, match=r"'R@20'.*for KL"):
        _load(tmp_path, METRIC="R@20", OWN=f"ks: {ks}")  # of one model alone


@pytest.mark.parametrize("kind", [JFSE, LAVIMO, CMPM, CSAligner])
def test_the_metrics_that_can_be_shown_are_those_of_the_models(kind: type) -> None:
    dims = {"image": 4, "text": 3, "class_embedding": 2}
    ks = kind(dims, **({"width": 8} if kind is JFSE else {"dim": 8})).ks
    assert {f"R@{k}" for k in ks} | {"MAP", "MedR", f"MAP@{ks[-1]}[min(R,k)]"} <= set(checks.computed(ks))
    assert (ks == (1, 5, 10)) == (kind is not LAVIMO)  # what a model without the argument has


def test_metrics_of_a_training_are_those_that_the_results_know() -> None:
    assert set(results.OF_TRAINING) == set(checks.OF_TRAINING)


# Files that extend others --------------------------------------------------------------------------------------------


def _extend(folder: Path, name: str, base: str, more: str = "") -> None:
    (folder / f"{name}.yaml").write_text(f"extends: {base}\n{more}", encoding="utf-8")


def test_files_extend_each_other_over_several_levels(tmp_path: Path) -> None:
    _load(tmp_path)
    (tmp_path / "below").mkdir()
    row = "methods: [{{method: {0}, model: CMPM, alignment: cs, init_args: {{alignment_weight: 1e-1}}}}]\n"
    _extend(tmp_path / "below", "middle", "../table9.yaml", "title: Middle\n" + row.format("second"))
    _extend(tmp_path, "table10", "below/middle.yaml", "metrics: [MedR]\n" + row.format("third"))
    table = load_table("table10", tmp_path)
    assert [method.method for method in table.methods] == ["GCS", "KL", "second", "third"]
    assert (table.title, table.metrics) == ("Middle", ["MedR"])
    assert table.methods[-1].init_args == {"alignment_weight": 0.1}


@pytest.mark.parametrize(
    ("links", "named"),
    [
        ({"table1": "table1.yaml"}, "table1.yaml -> table1.yaml"),
        ({"table1": "b.yaml", "b": "c.yaml", "c": "b.yaml"}, "b.yaml -> c.yaml -> b.yaml"),
        ({"table1": "b.yaml", "b": "nowhere.yaml"}, "nowhere.yaml cannot be read (b.yaml extends it)"),
        ({"table1": "[b.yaml]"}, "table1.yaml: extends is ['b.yaml']"),
        ({"table1": "."}, "cannot be read (table1.yaml extends it)"),
    ],
)
def test_files_that_cannot_be_extended_are_named(tmp_path: Path, links: dict[str, str], named: str) -> None:
    for name, base in links.items():
        _extend(tmp_path, name, base)
    with pytest.raises(SpecError) as refusal:
        load_table("table1", tmp_path)
    assert named in str(refusal.value)


def test_a_key_that_stands_twice_below_an_anchor_is_found_and_merged_keys_are_not(tmp_path: Path) -> None:
    assert _load(tmp_path, DATA="<<: {seed: 1}, seed: 2").datasets[0].init_args["seed"] == 2
    with pytest.raises(SpecError, match=r"table9\.yaml, line 8: 'seed' stands twice"):
        _load(tmp_path, DATA="seed: 1, seed: 2")
