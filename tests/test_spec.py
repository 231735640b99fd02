"""The language of tables: what files may say, how they extend each other, and what is checked before any training."""

from pathlib import Path
from string import Template

import pytest

from reproduce.names import TABLES, table_files
from reproduce.runs.arguments import SpecError, matched, merged
from reproduce.runs.checks import check_modalities, load_table
from reproduce.runs.config import parsed, resolve
from reproduce.runs.spec import Table, read_file, read_yaml

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
    $ENTRY
synthetic: {dataset: synthetic, features: synthetic, class_path: SyntheticItems, init_args: {$DATA}}
methods:
  - {method: GCS, model: LAVIMO, trials: [{$TRIAL}],
     init_args: {alignment: {class_path: GCSLoss, init_args: {scheme: mixed, $LOSS}}, $INIT}, $ROW}
  - {method: KL, model: CMPM, init_args: {alignment: kl}, $SWEEP}
scales: {quick: {seeds: $SEEDS, max_epochs: 2, model: {$ALL}, models: {LAVIMO: {$OWN}}}}
$TOP
"""
EMPTY = dict.fromkeys(("DATA", "ENCODER", "ENTRY", "ON_IT", "LOSS", "INIT", "ALL", "OWN", "ROW", "SWEEP"), "")
# What stands for a word of the table that a test does not change.
PLAIN = {"METRIC": "R@5", "GALLERY": "threshold-0.95", "SEEDS": "[0, 1]", "TOP": "class_split: standard"}
PLAIN |= {"TRIAL": "dropout: 0.1"}
# The end of the table's data set, and one that takes over settings.
GALLERIES = "galleries: [batches-32, threshold-0.95]\n"
MORE = "  - {{dataset: more, features: own, class_path: SyntheticItems, settings_of: moves/{}}}\n"


def _load(folder: Path, **changes: str) -> Table:
    text = Template(TABLE).substitute(EMPTY | PLAIN | changes)
    (folder / "table9.yaml").write_text(text, encoding="utf-8")
    return load_table("table9", folder)


# The shipped tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", table_files())
def test_every_shipped_table_is_sound_and_says_what_it_asks(name):
    table = load_table(name)
    assert set(table.scales) == {"quick", "paper"}
    for method in table.methods:
        assert not (method.protocol == "as_published" and method.trials)
    tuned = [len(method.trials) for method in table.methods if method.trials]
    assert len(set(tuned)) <= 1  # as many trials for each
    if (TABLES.parent / "experiments" / f"{name}.yaml").exists():
        first = (TABLES.parent / "experiments" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first.startswith("# ")


@pytest.mark.parametrize("name", ["table5", "table6", "table7", "table9", "temperature", "temperature-jfse"])
def test_losses_are_compared_at_one_effective_temperature(name):
    table = read_file(name)
    factors = {"CS": 2, "KL": 1, "GCS": table.datasets[0].count + 1}
    configs = {}
    for method in table.methods:
        if method.init_args.get("alignment") and method.protocol == "honest" and not method.trials:
            config = resolve(table, table.scales["quick"], table.datasets[0], method, {}, 0, 1, factors["GCS"] - 1)
            configs[method.method] = config["model"]["init_args"]
    assert configs
    effective = {}
    for name, arguments in configs.items():
        factor = factors["GCS" if "GCS" in name else "CS" if "CS" in name else "KL"]
        assert arguments["alignment_weight"] == factor
        effective[name] = arguments["alignment"]["init_args"]["temperature"] / factor
    for method, baseline in table.comparisons:
        if method in effective and baseline in effective:
            assert effective[method] == pytest.approx(effective[baseline])


@pytest.mark.parametrize("name", ["table8", "foundation"])
def test_a_method_of_the_divergence_alone_has_no_alignment(name):
    table = read_file(name)
    found = {m.method: m.init_args.get("alignment", "by default") for m in table.methods if m.model == "CSAligner"}
    assert found["kernel CS"] is None
    assert all(alignment for method, alignment in found.items() if method != "kernel CS")
    assert "by default" not in found.values()


# Reading -------------------------------------------------------------------------------------------------------------


def test_a_table_without_a_fault_is_read(tmp_path):
    table = _load(tmp_path)
    assert [method.method for method in table.methods] == ["GCS", "KL"]
    assert table.methods[1].init_args["alignment"] == {"class_path": "losses.KLLoss"}
    assert table.scales["quick"].seeds == [0, 1]


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "1E-3", "0.001"])
def test_a_number_may_be_written_in_any_form(tmp_path, number):
    table = _load(tmp_path, ALL=f"learning_rate: {number}", INIT=f"weight_decay: {number}")
    assert table.scales["quick"].model["learning_rate"] == table.methods[0].init_args["weight_decay"] == 0.001


def test_the_later_arguments_win_mapping_by_mapping():
    base = {"width": 8, "alignment": {"class_path": "losses.CSLoss", "init_args": {"temperature": 1}}, "ks": [1]}
    over = {"alignment": {"temperature": 2}, "ks": [5]}
    expected = {"class_path": "losses.CSLoss", "init_args": {"temperature": 2}}
    assert merged(base, over) == {"width": 8, "alignment": expected, "ks": [5]}
    assert merged(base, {"alignment": {"class_path": "losses.KLLoss"}})["alignment"]["class_path"] == "losses.KLLoss"


@pytest.mark.parametrize(
    ("alignment", "modalities", "factor"),
    [
        ({"class_path": "losses.PairwiseLoss", "init_args": {"divergence": "kl"}}, 3, 1),
        ({"class_path": "losses.PairwiseLoss", "init_args": {"divergence": "cs"}}, 3, 2),
        ({"class_path": "losses.GCSLoss", "init_args": {"scheme": "mixed"}}, 6, 7),
        ({"class_path": "losses.InfoNCELoss"}, 2, 1),
    ],
)
def test_a_matched_temperature_is_temperature_and_weight(alignment, modalities, factor):
    found = matched({"alignment": alignment, "matched_temperature": 0.1, "dim": 8}, modalities, weighted=True)
    assert (found["alignment_weight"], found["dim"]) == (factor, 8)
    assert found["alignment"]["init_args"]["temperature"] == round(0.1 * factor, 12)
    assert "alignment_weight" not in matched({"alignment": alignment, "matched_temperature": 0.1}, 2, weighted=False)


def test_a_sweep_is_a_method_per_value_and_two_are_compared_value_by_value(tmp_path):
    loss = "init_args: {alignment: {class_path: GCSLoss, init_args: {scheme: mixed}}}"
    gcs = f"{{method: G, model: LAVIMO, {loss}, sweep: {{matched_temperature: [0.1, 0.2]}}}}"
    kl = "{method: K, model: CMPM, init_args: {alignment: kl}, sweep: {alignment.temperature: [0.1, 0.2]}}"
    names = "{method: 'G, tau {temperature}', model: LAVIMO, init_args: {alignment: gcs, matched_temperature: 0.1}}"
    text = Template(TABLE).substitute(EMPTY | PLAIN | {"TOP": "comparisons: [[G, K], ['G, tau {temperature}', KL]]"})
    (tmp_path / "table9.yaml").write_text(text.replace("methods:", f"methods:\n  - {gcs}\n  - {kl}\n  - {names}"))
    table = load_table("table9", tmp_path)
    assert [method.method for method in table.methods[:5]] == [
        *("G, temperature 0.3", "G, temperature 0.6", "K, temperature 0.1", "K, temperature 0.2", "G, tau 0.3")
    ]
    assert [(m.sweep.line, m.sweep.argument, m.sweep.value) for m in table.methods[:2]] == [
        *(("G", "temperature", 0.3), ("G", "temperature", 0.6))
    ]
    assert table.comparisons == [
        *(["G, temperature 0.3", "K, temperature 0.1"], ["G, temperature 0.6", "K, temperature 0.2"]),
        ["G, tau 0.3", "KL"],
    ]


def test_a_row_is_a_configuration_of_csd_fit(tmp_path):
    table = _load(tmp_path, ALL="dim: 8", OWN="dim: 16", INIT="matched_temperature: 0.1")
    [dataset], method = table.datasets, table.methods[0]
    config = resolve(table, table.scales["quick"], dataset, method, method.trials[0], 3, 5, 2)
    assert config["seed_everything"] == 3
    assert config["trainer"] == {"max_epochs": 5}
    model = config["model"]["init_args"]
    assert (model["dim"], model["dropout"], model["protocol"], model["alignment_weight"]) == (16, 0.1, "honest", 3)
    assert config["data"]["init_args"]["validation_fraction"] == 0.0
    assert config["evaluate"] == {"on": "test", "galleries": ["batches-32", "threshold-0.95"]}
    parsed(config, "model", "data")  # which refuses what csd fit would not take
    trial = resolve(table, table.scales["quick"], dataset, method, method.trials[0], None, 5, 2)
    assert (trial["evaluate"]["on"], trial["data"]["init_args"]["validation_fraction"]) == ("validation", 0.15)


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        # an empty value or a value of another type
        ({"INIT": "dim: eight"}, ["GCS", "model.dim", "int", "eight"]),
        ({"TRIAL": "dropout: "}, ["GCS", "model.dropout", "empty"]),
        ({"TRIAL": "alignment: "}, ["GCS", "model.alignment", "empty"]),
        ({"LOSS": "temperature: low"}, ["GCS", "model.alignment.temperature", "float", "low"]),
        ({"ON_IT": "dropout: [1]"}, ["moves/own", "model.dropout", "float"]),
        ({"ENCODER": "frozen: 3"}, ["encoder of 'motion'", "frozen"]),
        # misspelt names
        ({"INIT": "dimm: 8"}, ["GCS", "'dimm'", "nearest: dim"]),
        ({"ALL": "learning_rte: 0.1"}, ["'learning_rte'", "nearest: learning_rate"]),
        ({"ALL": "reconstruct: motion"}, ["KL on", "CMPM", "'reconstruct'"]),
        ({"DATA": "batch_sise: 8"}, ["moves/own", "'batch_sise'", "nearest: batch_size"]),
        ({"ROW": "data: {pared_fraction: 0.5}"}, ["GCS", "'pared_fraction'", "nearest: paired_fraction"]),
        ({"ENCODER": "widht: 8"}, ["moves/own", "encoder of 'motion'", "'widht'", "nearest: width"]),
        ({"LOSS": "shceme: mixed"}, ["GCS", "GCSLoss", "'shceme'", "nearest: scheme"]),
        ({"SWEEP": "init_arg: {}"}, ["KL", "'init_arg'", "nearest: init_args"]),
        ({"SWEEP": "sweep: {alignment.temprature: [0.1]}"}, ["KLLoss", "'temprature'", "nearest: temperature"]),
        ({"TOP": "titel: A"}, ["'titel'", "nearest: title"]),
        ({"ENTRY": "exclude: [KK]"}, ["exclude", "'KK'", "nearest: KL"]),
        ({"TOP": "select: joint"}, ["moves/own", "joint_queries"]),
        ({"TOP": "select: jiont"}, ["select", "jiont"]),
        ({"TOP": "projection: [KLL]"}, ["projection", "'KLL'", "nearest: KL"]),
        # values that nothing takes
        ({"DATA": "data_root: /data"}, ["moves/own", "'data_root'"]),
        ({"DATA": "path: a.npy"}, ["moves/own", "'path'"]),
        ({"ENTRY": "split_by_seed: true"}, ["moves/own", "split_by_seed", "SyntheticItems"]),
        ({"ENTRY": "seeds: [1, 1]"}, ["moves/own", "seeds", "1 twice"]),
        ({"DATA": "batch_size: 0"}, ["moves/own", "batch_size is 0"]),
        ({"DATA": "class_split: zeroshot", "TOP": ""}, ["moves/own", "zeroshot", "zero-shot"]),
        ({"ROW": "protocol: published"}, ["GCS", "published", "as_published"]),
        ({"LOSS": "temperature: -1"}, ["GCS", "temperature", "-1"]),
        ({"INIT": "matched_temperature: 0"}, ["GCS", "temperature"]),
        ({"INIT": "matched_temperature: 1", "LOSS": "temperature: 1"}, ["GCS", "a temperature and a matched_temp"]),
        ({"GALLERY": "batchs-32"}, ["moves/own: galleries", "'batchs-32'", "batches-32"]),
        ({"GALLERY": "batches-32"}, ["moves/own: galleries", "'batches-32'", "twice"]),
        ({"TOP": "galleries: [batches-64]"}, ["galleries", "'batches-64'"]),
        ({"SEEDS": "[]"}, ["scales.quick", "seeds", "empty"]),
        ({"SEEDS": "[0, -1]"}, ["scales.quick", "seeds", "-1"]),
        ({"SEEDS": "[0, 0]"}, ["scales.quick", "seeds", "0 twice"]),
        ({"SEEDS": "[0.5]"}, ["scales.quick", "seeds"]),
        ({"SEEDS": "[0], min_steps: [10, 0]"}, ["scales.quick", "min_steps", "0"]),
        ({"SEEDS": "[0], max_epochs: 0"}, ["max_epochs", "stands twice"]),
        ({"SWEEP": "sweep: {alignment.temperature: [0.1, 0]}"}, ["KL", "[0.1, 0]", "positive"]),
        ({"SWEEP": "sweep: {dropout: [0.1], dim: [8]}"}, ["KL", "one argument"]),
        ({"SWEEP": "sweep: {dropout: [0.1]}, trials: [{dim: 8}]"}, ["KL", "no trials"]),
        ({"SWEEP": "sweep: {dropout: [0.1, 0.1]}"}, ["KL, dropout 0.1", "twice"]),
        ({"TOP": "comparisons: [[GCS, LK]]"}, ["comparisons", "'LK'", "nearest: KL"]),
        ({"TOP": "comparisons: [[GCS, GCS]]"}, ["comparisons", "['GCS', 'GCS']"]),
        ({"TOP": "comparisons: [[GCS, KL], [GCS, KL]]"}, ["comparisons", "['GCS', 'KL']", "once"]),
        ({"TOP": "title: Again"}, ["line ", "'title' stands twice"]),
        # metrics
        ({"METRIC": "R@20"}, ["'R@20'", "nearest: R@10", "MedR", "MAP@5[min(R,k)]", "kernel CS"]),
        ({"METRIC": "R@3"}, ["'R@3'", "KL", "R@5", "`ks` of CMPM"]),  # LAVIMO computes it, CMPM does not
        ({"METRIC": "mAP"}, ["'mAP'", "nearest: MAP"]),
        ({"METRIC": "MAP"}, ["metrics", "'MAP' twice"]),
        ({"METRIC": "kernel CS by chance"}, ["by chance", "kernel CS"]),
        ({"OWN": "ks: [0]"}, ["ks", "[0]"]),
    ],
    ids=str,
)
def test_a_fault_is_refused_before_training(tmp_path, changes, named):
    with pytest.raises(SpecError) as refusal:
        _load(tmp_path, **changes)
    said = str(refusal.value)
    assert said.startswith("table9.yaml")
    assert [word for word in named if word not in said] == [], said


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("methods:", "methods: []\nothers:", ["methods", "list"]),
        ("title: A table\n", "", ["title"]),
        ("max_epochs: 2, ", "", ["scales.quick", "max_epochs"]),
        ("model: CMPM", "model: CMPP", ["KL", "'CMPP'", "nearest: CMPM"]),
        ("alignment: kl", "alignment: lk", ["KL", "'lk'", "kl"]),
        ("CMPM, init_args: {alignment: kl}", "JFSE", ["SyntheticItems", "JFSE takes paired features", "exclude"]),
        ("CMPM, init_args: {alignment: kl}", "CCA", ["SyntheticItems", "CCA takes paired features", "exclude"]),
        ("CMPM, init_args: {alignment: kl}", "CMPM", ["KL", "alignment"]),
        ("method: KL,", "method: KL, protocol: as_published,", ["KL", "as_published", "CMPM"]),
        ("class_path: SyntheticItems\n", "class_path: SynteticItems\n", ["'SynteticItems'", "nearest: SyntheticItems"]),
        ("class_path: SyntheticItems\n", "class_path: own.Views\n", ["'own.Views'", "csd fit"]),
        ("{method: KL,", "{method: GCS,", ["methods", "'GCS, honest'", "twice"]),
        ("title: A table", "title: [", ["cannot be read"]),
        ("title: A table", "extends: nothing.yaml", ["nothing.yaml", "cannot be read", "extends"]),
        (GALLERIES, GALLERIES + MORE.format("owm"), ["'moves/owm'", "nearest: moves/own"]),
        (GALLERIES, f"{GALLERIES}    exclude: [GCS]\n{MORE.format('own')}", ["settings_of", "GCS", "exclude"]),
    ],
)
def test_a_broken_entry_is_named(tmp_path, old, new, named):
    text = Template(TABLE).substitute(EMPTY | PLAIN)
    assert old in text
    (tmp_path / "table9.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(SpecError) as refusal:
        load_table("table9", tmp_path)
    assert [word for word in named if word not in str(refusal.value)] == [], refusal.value


def test_an_unknown_table_is_told_which_there_are(tmp_path):
    _load(tmp_path)
    with pytest.raises(SpecError, match="there is no table5; there are table9"):
        load_table("table5", tmp_path)
    (tmp_path / "table9.yaml").write_text("- JFSE\n")
    with pytest.raises(SpecError, match=r"table9\.yaml must be a mapping, got list"):
        load_table("table9", tmp_path)


def test_modalities_are_compared_with_the_data_before_training(tmp_path):
    [dataset] = _load(tmp_path).datasets
    check_modalities(dataset, ["text", "motion"], "table9.yaml")
    with pytest.raises(SpecError, match=r"table9\.yaml: moves/own: model names 'motion'.*text, video"):
        check_modalities(dataset, ["text", "video"], "table9.yaml")


# Files that extend others --------------------------------------------------------------------------------------------


def _files(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def test_files_extend_each_other_over_several_levels_and_several_at_once(tmp_path):
    _files(
        tmp_path,
        one="extends: [two.yaml, three.yaml]\ntitle: One\nmethods: [a]\ncomparisons: [[a, b]]",
        two="extends: four.yaml\ntitle: Two\nmetrics: [MAP]\nmethods: [b]",
        three="metrics: [R@1]\nmethods: [c]\ncomparisons: [[b, c]]",
        four="methods: [d]\ngalleries: [x]",
    )
    found = read_yaml(tmp_path / "one.yaml")
    assert found.pop("methods") == ["d", "b", "c", "a"]
    assert found == {"title": "One", "metrics": ["R@1"], "galleries": ["x"], "comparisons": [["b", "c"], ["a", "b"]]}


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ({"one": "extends: one.yaml"}, "one.yaml -> one.yaml"),
        ({"one": "extends: two.yaml", "two": "extends: one.yaml"}, "one.yaml -> two.yaml -> one.yaml"),
        ({"one": "extends: two.yaml", "two": "- a"}, "two.yaml must be a mapping"),
        ({"one": "extends: 5"}, "extends is 5"),
        ({"one": "methods: {a: 1}"}, "methods is"),
        ({"one": "x: &x {a: 1, a: 2}\ny: *x"}, "line 1: 'a' stands twice"),
    ],
)
def test_files_that_cannot_be_extended_are_named(tmp_path, texts, named):
    _files(tmp_path, **texts)
    with pytest.raises(SpecError, match=named):
        read_yaml(tmp_path / "one.yaml")
