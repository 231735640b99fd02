"""The Wikipedia readers, and `python -m datamodules check wikipedia`, on written and on real files."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from check_cases import faulty
from tiny_trees import WIKIPEDIA, write_text

from datamodules import DataError, Wikipedia, WikipediaRaw
from datamodules.__main__ import main
from datamodules.datasets import DATASETS
from datamodules.datasets.wikipedia import CLASS_NAMES, FEATURE_FILES, LISTS, read_lists, read_section
from datamodules.files.sources import data_root
from reproduce.runs.checks import load_table
from reproduce.runs.presence import form_of

TRAIN_LIST, TEST_LIST = LISTS.values()
pytestmark = pytest.mark.filterwarnings("ignore:.*is not the known copy")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data root whose wikipedia/ holds random values in the published shapes."""
    folder = tmp_path_factory.mktemp("root") / "wikipedia"
    folder.mkdir()
    rng = np.random.default_rng(0)
    label = rng.integers(10, size=2866)
    for name, part in ((TRAIN_LIST, label[:2173]), (TEST_LIST, label[2173:])):
        (folder / name).write_text("".join(f"text-{i}\timage-{i}\t{c + 1}\n" for i, c in enumerate(part)))
    sift = {
        f"{m}_{s}": rng.normal(size=(n, d)) for m, d in (("I", 128), ("T", 10)) for s, n in (("tr", 2173), ("te", 693))
    }
    scipy.io.savemat(folder / "raw_features.mat", sift, do_compression=True)
    roph = {"X1": rng.normal(size=(128, 2866)), "X2": rng.normal(size=(100, 2866))}
    roph["Y"] = scipy.sparse.csc_matrix(np.eye(10)[label].T)
    scipy.io.savemat(folder / "wiki_roph.mat", {"data": roph}, do_compression=True)
    return folder.parent, label, sift, roph


@pytest.fixture
def copy(written, tmp_path) -> Path:
    """A copy of the written files, free to be broken."""
    return Path(shutil.copytree(written[0] / "wikipedia", tmp_path / "wikipedia"))


@pytest.mark.parametrize("features", FEATURE_FILES)
def test_wikipedia_rows_follow_the_lists(written, features):
    root, label, sift, roph = written
    with pytest.warns(UserWarning, match=rf"{FEATURE_FILES[features]} is not the known copy \(sha256"):
        data = Wikipedia(data_root=root, features=features).data
    np.testing.assert_array_equal(data.label, label)
    np.testing.assert_array_equal(np.flatnonzero(data.split == "test"), np.arange(2173, 2866))
    if features == "roph":
        expected = {"image": roph["X1"].T, "text": roph["X2"].T}
    else:
        expected = {"image": np.vstack([sift["I_tr"], sift["I_te"]]), "text": np.vstack([sift["T_tr"], sift["T_te"]])}
    for name, array in expected.items():
        np.testing.assert_array_equal(data.vectors[name], array)


def refused(root, features="roph") -> str:
    with pytest.raises(DataError) as error:
        _ = Wikipedia(data_root=root, features=features).data
    return str(error.value)


@pytest.mark.parametrize(("features", "file"), FEATURE_FILES.items())
@pytest.mark.parametrize("keep", [0, 0.5, -1])
def test_truncated_file_is_named_with_remedy(copy, features, file, keep):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    message = refused(copy.parent, features)
    assert message.startswith(f"{copy / file}: ")
    assert "python -m datamodules get wikipedia" in message
    assert "python -m datamodules check wikipedia" in message


def test_a_missing_file_of_a_named_root_is_an_error_and_check_says_what_else_is_other(copy, capsys):
    (copy / TEST_LIST).unlink()
    assert refused(copy.parent).startswith(f"{copy / TEST_LIST} is missing")
    assert "name the one above it" in refused(copy)
    report = faulty("wikipedia", copy, capsys, hashes=True)
    assert report.count("OTHER ") == 3
    assert f"MISSING  {copy / TEST_LIST}" in report


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (TRAIN_LIST, lambda text: text.split("\n", 1)[1], "has 2172 lines instead of 2173"),
        (
            TRAIN_LIST,
            lambda text: "".join(reversed(text.splitlines(keepends=True))),
            "its rows do not follow the lists",
        ),
        (TEST_LIST, lambda text: text.replace("\t", " ", 1).replace("\t", "", 1), "line 1 is"),
        (TEST_LIST, lambda text: text.rsplit("\t", 1)[0] + "\t11\n", "line 693 is"),
    ],
)
def test_broken_list_is_refused(copy, name, change, message):
    (copy / name).write_text(change((copy / name).read_text()))
    assert message in refused(copy.parent)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X1": np.zeros((64, 2866))}, "X1 has shape (64, 2866)"),
        ({"X2": "text"}, "X2 has shape ()"),
        ({"X2": np.full((100, 2866), np.nan)}, "X2 is NaN or infinite"),
        ({"Y": np.zeros((9, 2866))}, "Y has shape (9, 2866)"),
    ],
)
def test_wrong_content_of_roph_is_refused(written, copy, changed, message, capsys):
    scipy.io.savemat(copy / "wiki_roph.mat", {"data": written[3] | changed})
    assert message in refused(copy.parent)
    assert message in faulty("wikipedia", copy, capsys)


def test_mat_file_without_the_arrays_is_refused(copy):
    for file in FEATURE_FILES.values():
        scipy.io.savemat(copy / file, {"other": np.zeros(3)})
    assert "holds no structure named data" in refused(copy.parent)
    assert "I_tr is missing" in refused(copy.parent, "sift-lda")


def test_roph_features_are_said_to_be_transductive(written, capsys):
    main(["check", "wikipedia", "--data-root", str(written[0])])
    assert "PCA fitted on all items, test items included" in capsys.readouterr().out
    said = {one.features: form_of(one).caution for one in load_table("table2").datasets if one.dataset == "wikipedia"}
    assert said.pop("roph").startswith("transductive features")
    assert set(said.values()) == {""}


# Images and texts -----------------------------------------------------------------------------------------------------


def test_items_are_the_pairs_of_the_lists_in_their_order(tree):
    module = WikipediaRaw(tree("wikipedia").parent)
    data = module.data
    pairs = [*WIKIPEDIA["train"], *WIKIPEDIA["test"]]
    assert list(data.names) == [text for text, _, _ in pairs]
    assert data.label.tolist() == [category - 1 for _, _, category in pairs]
    assert data.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert data.modalities["text"].entries == [f"Section {text} of A & B, and R&D." for text, _, _ in pairs]
    images = data.modalities["image"].entries
    assert [path.stem for path in images.paths] == [image for _, image, _ in pairs]
    assert images[0].shape == (6, 8, 3)


def test_an_image_in_the_folder_of_another_class_is_missing(tree):
    folder = tree("wikipedia")
    shutil.move(folder / "images" / "art" / "i2.jpg", folder / "images" / "warfare" / "i2.jpg")
    with pytest.raises(DataError, match="image is missing from 1: bb-1"):
        _ = WikipediaRaw(folder.parent).data


def test_several_texts_of_a_document_are_joined_and_an_image_may_have_two_of_one_list(tmp_path, tree):
    write_text(tmp_path / "a.xml", "<text>one\ttwo</text><image/><text>&quot;three&quot;</text>")
    assert read_section(tmp_path / "a.xml") == 'one two "three"'
    path = tree("wikipedia") / TEST_LIST
    path.write_text(path.read_text() + "ff-1\ti4\t10\n")
    assert [image for _, image, _ in read_lists(path.parent)[0]].count("i4") == 2


# The real files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def real_root():
    try:
        root = data_root()
    except DataError as error:
        pytest.skip(str(error))
    if "roph" not in DATASETS["wikipedia"].lacking(root / "wikipedia"):
        pytest.skip("CSD_DATA has no complete wikipedia/")
    return root


def test_real_wikipedia_has_its_published_sizes(real_root):
    counts = {}
    for features, dims in (("roph", (128, 100)), ("sift-lda", (128, 10))):
        module = Wikipedia(data_root=real_root, features=features, class_encoder="one-hot", validation_fraction=0)
        assert module.dims == {"image": dims[0], "text": dims[1], "class_embedding": 10}
        assert (len(module.indices("train")), len(module.indices("standard"))) == (2173, 693)
        counts[features] = np.bincount(module.data.label[module.indices("standard")]).tolist()
        assert module.class_names == CLASS_NAMES
    assert counts["roph"] == counts["sift-lda"]
    assert max(counts["roph"]) == counts["roph"][CLASS_NAMES.index("warfare")] == 104
    pairs, _ = read_lists(real_root / "wikipedia")
    assert len({text for text, _, _ in pairs}) == len({image for _, image, _ in pairs}) == 2866


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_check_accepts_the_real_files(real_root, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["datamodules", "check", "wikipedia", "--data-root", str(real_root)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("datamodules", run_name="__main__")
    report = capsys.readouterr().out
    assert ended.value.code == 0, report
    assert report.count("2866 items (2173 train, 0 validation, 693 test)") == 2
    assert report.count("a training item has too: image 3, text 0") == 2
