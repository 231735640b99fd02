"""Wikipedia, NUS-WIDE and PKU XMediaNet: features in their authors' layouts, Wikipedia's raw pairs, and real files.

What is missing or broken is in test_data_set_files.py and test_data_set_lists.py.
"""

import runpy
import shutil
import tracemalloc

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from check_cases import faulty
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import DATA, require
from tiny_trees import (
    NUS_CONCEPTS,
    NUS_COUNTS,
    NUS_WIDTHS,
    WIKIPEDIA,
    XMEDIANET,
    XMEDIANET_CLASSES,
    nus_wide,
    write_nus_wide,
    write_text,
    xmedianet,
)

from datamodules import NUSWIDE, DataError, PKUXMediaNet, Wikipedia, WikipediaRaw
from datamodules.__main__ import main
from datamodules.datasets.wikipedia import CLASS_NAMES, FEATURE_FILES, LISTS, read_lists, read_section
from datamodules.files.text_matrix import Part, read_bits, read_parts
from reproduce.runs.presence import form_of
from reproduce.runs.spec import read_file

TRAIN_LIST, TEST_LIST = LISTS.values()
pytestmark = pytest.mark.filterwarnings("ignore:.*is not the known copy")


# Wikipedia: features ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A wikipedia/ that holds random values in the published shapes, and these."""
    folder = tmp_path_factory.mktemp("root") / "wikipedia"
    folder.mkdir()
    rng = np.random.default_rng(0)
    label = rng.integers(10, size=2866)
    for name, part in ((TRAIN_LIST, label[:2173]), (TEST_LIST, label[2173:])):
        (folder / name).write_text("".join(f"text-{i}\timage-{i}\t{c + 1}\n" for i, c in enumerate(part)))
    sift = {f"{m}_{s}": rng.random((n, d)) for m, d in (("I", 128), ("T", 10)) for s, n in (("tr", 2173), ("te", 693))}
    scipy.io.savemat(folder / "raw_features.mat", sift, do_compression=True)
    roph = {"X1": rng.normal(size=(128, 2866)), "X2": rng.normal(size=(100, 2866))}
    roph["Y"] = scipy.sparse.csc_matrix(np.eye(10)[label].T)
    scipy.io.savemat(folder / "wiki_roph.mat", {"data": roph}, do_compression=True)
    return folder, label, sift, roph


@pytest.fixture
def copy(written, tmp_path):
    """A copy of the written files, free to be broken."""
    return shutil.copytree(written[0], tmp_path / "wikipedia")


def refused(root, features="roph") -> str:
    with pytest.raises(DataError) as error:
        _ = Wikipedia(data_root=root, features=features).data
    return str(error.value)


def test_wikipedia_rows_follow_the_lists(written):
    folder, label, sift, roph = written
    expected = {
        "roph": (roph["X1"].T, roph["X2"].T),
        "sift-lda": (np.vstack([sift["I_tr"], sift["I_te"]]), np.vstack([sift["T_tr"], sift["T_te"]])),
    }
    for features, arrays in expected.items():
        with pytest.warns(UserWarning, match=rf"{FEATURE_FILES[features]} is not the known copy \(sha256"):
            data = Wikipedia(data_root=folder.parent, features=features).data
        np.testing.assert_array_equal(data.label, label)
        np.testing.assert_array_equal(np.flatnonzero(data.split == "test"), np.arange(2173, 2866))
        for name, array in zip(("image", "text"), arrays, strict=True):
            np.testing.assert_array_equal(data.vectors[name], array)


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
        (TRAIN_LIST, lambda lines: lines[1:], "has 2172 lines instead of 2173"),
        (TRAIN_LIST, lambda lines: lines[::-1], "its rows do not follow the lists"),
        (TEST_LIST, lambda lines: [lines[0].replace("\t", " ", 1).replace("\t", ""), *lines[1:]], "line 1 is"),
        (TEST_LIST, lambda lines: [*lines[:-1], "text\timage\t11\n"], "line 693 is"),
    ],
)
def test_broken_list_is_refused(copy, name, change, message):
    (copy / name).write_text("".join(change((copy / name).read_text().splitlines(keepends=True))))
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
    main(["check", "wikipedia", "--data-root", str(written[0].parent)])
    assert "PCA fitted on all items, test items included" in capsys.readouterr().out
    said = {one.features: form_of(one).caution for one in read_file("table2").datasets if one.dataset == "wikipedia"}
    assert said.pop("roph").startswith("transductive features")
    assert set(said.values()) == {""}


# Wikipedia: images and texts ----------------------------------------------------------------------------------------


def test_items_are_the_pairs_of_the_lists_in_their_order(tree):
    folder = tree("wikipedia")
    data = WikipediaRaw(folder.parent).data
    pairs = [*WIKIPEDIA["train"], *WIKIPEDIA["test"]]
    assert list(data.names) == [text for text, _, _ in pairs]
    assert data.label.tolist() == [category - 1 for _, _, category in pairs]
    assert data.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert data.modalities["text"].entries == [f"Section {text} of A & B, and R&D." for text, _, _ in pairs]
    assert [path.stem for path in data.modalities["image"].entries.paths] == [image for _, image, _ in pairs]
    shutil.move(folder / "images" / "art" / "i2.jpg", folder / "images" / "warfare" / "i2.jpg")
    with pytest.raises(DataError, match="image is missing from 1: bb-1"):
        _ = WikipediaRaw(folder.parent).data


def test_several_texts_of_a_document_are_joined_and_an_image_may_have_two_of_one_list(tmp_path, tree):
    write_text(tmp_path / "a.xml", "<text>one\ttwo</text><image/><text>&quot;three&quot;</text>")
    assert read_section(tmp_path / "a.xml") == 'one two "three"'
    path = tree("wikipedia") / TEST_LIST
    path.write_text(path.read_text() + "ff-1\ti4\t10\n")
    assert [image for _, image, _ in read_lists(path.parent)[0]].count("i4") == 2


# Wikipedia: the real files ------------------------------------------------------------------------------------------


@pytest.fixture
def real_root():
    for file in (*FEATURE_FILES.values(), *LISTS.values()):
        require(f"wikipedia/{file}")
    return DATA


def test_real_wikipedia_has_its_published_sizes(real_root):
    counts = []
    for features, dims in (("roph", (128, 100)), ("sift-lda", (128, 10))):
        module = Wikipedia(data_root=real_root, features=features, class_encoder="one-hot", validation_fraction=0)
        assert module.dims == {"image": dims[0], "text": dims[1], "class_embedding": 10}
        assert (len(module.indices("train")), len(module.indices("standard"))) == (2173, 693)
        counts.append(np.bincount(module.data.label[module.indices("standard")]).tolist())
    assert counts[0] == counts[1]
    assert max(counts[0]) == counts[0][CLASS_NAMES.index("warfare")] == 104
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


# NUS-WIDE -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nus(tmp_path_factory):
    root = write_nus_wide(tmp_path_factory.mktemp("root")).parent
    return lambda **more: NUSWIDE(root, **({"class_encoder": "one-hot", "subset": None} | more)).data


def test_images_with_one_of_the_ten_largest_concepts_are_kept(nus):
    data, found = nus(), {part: nus_wide(part) for part in NUS_COUNTS}
    count = found["Train"]["label"].sum(axis=0)
    largest = sorted(range(len(NUS_CONCEPTS)), key=lambda c: (-count[c], c))[:10]
    rows = {part: np.flatnonzero(of["label"][:, largest].any(axis=1)) for part, of in found.items()}
    assert any(len(rows[part]) < NUS_COUNTS[part] for part in rows), "some images have none"
    assert data.class_names == tuple(NUS_CONCEPTS[c] for c in largest)
    assert data.label.dtype == bool
    np.testing.assert_array_equal(data.label, np.vstack([found[p]["label"][rows[p]][:, largest] for p in rows]))
    image = np.vstack([np.hstack([found[part][name] for name in NUS_WIDTHS])[rows[part]] for part in rows])
    np.testing.assert_allclose(data.vectors["image"], image, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(data.vectors["text"], np.vstack([found[p]["tags"][rows[p]] for p in rows]))
    assert data.split.tolist() == ["train"] * len(rows["Train"]) + ["test"] * len(rows["Test"])


def test_the_subset_is_some_of_all_images_each_in_its_own_part(nus):
    whole, subset = nus(), nus(subset=30)
    row = {features.tobytes(): i for i, features in enumerate(whole.vectors["image"])}
    kept = [row[features.tobytes()] for features in subset.vectors["image"]]
    assert len(set(kept)) == len(subset) == 30
    np.testing.assert_array_equal(subset.label, whole.label[kept])
    np.testing.assert_array_equal(subset.split, whole.split[kept])
    np.testing.assert_array_equal(subset.vectors["text"], whole.vectors["text"][kept])
    assert nus(subset=30).digest() == subset.digest() != nus(subset=30, split_seed=1).digest()
    assert nus(subset=10_000).digest() == whole.digest()


# Matrices of text ---------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rows_of_files_stand_side_by_side_and_part_below_part(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    widths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    between, after = data.draw(st.sampled_from([(" ", ""), (" ", " "), ("\t", "\t"), ("  ", "\r")]))
    parts, expected = [], []
    for p, count in enumerate(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=2))):
        rows = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
        values = [np.random.default_rng((p, w)).normal(size=(count, w)).astype(np.float32) for w in widths]
        paths = [folder / f"{p}-{i}.dat" for i in range(len(widths))]
        for path, matrix in zip(paths, values, strict=True):
            lines = "".join(between.join(f"{v:.9g}" for v in row) + after + "\n" for row in matrix)
            path.write_text(lines + "\n", newline="")
        parts.append(Part(paths, rows, count))
        expected.append(np.hstack(values)[rows])
    np.testing.assert_array_equal(read_parts(parts), np.vstack(expected))


def test_of_a_large_matrix_only_the_wanted_rows_are_held(tmp_path):
    count, width, wanted = 4000, 100, 40
    path = tmp_path / "matrix.dat"
    path.write_text(("0.5 " * width + "\n") * count)
    tracemalloc.start()
    found = read_parts([Part([path], np.arange(0, count, count // wanted), count)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (wanted, width)
    assert peak < path.stat().st_size / 4


def test_bits_are_zeros_and_ones(tmp_path):
    path = tmp_path / "bits.txt"
    path.write_bytes(b"0\r\n1\r\n1\r\n")
    assert read_bits(path).tolist() == [False, True, True]


# PKU XMediaNet -------------------------------------------------------------------------------------------------------


def test_line_i_of_every_file_is_one_pair_and_files_may_be_numbered_anew_in_each_class(tree):
    folder = tree("pku_xmedianet")
    module = PKUXMediaNet(folder.parent)
    data, written = module.data, xmedianet()
    for name, word in (("image", "img"), ("text", "txt")):
        expected = np.vstack([written[f"{word}_{part}_fea"] for part in XMEDIANET])
        np.testing.assert_allclose(data.vectors[name], expected, rtol=1e-6, atol=1e-7)
    assert data.label.tolist() == [i % XMEDIANET_CLASSES for count in XMEDIANET.values() for i in range(count)]
    assert data.split.tolist() == [part for part, count in XMEDIANET.items() for _ in range(count)]
    assert data.class_names == ("class 1", "class 2", "class 3")
    np.testing.assert_allclose(module.class_embedding, written["cate_fea"], rtol=1e-6, atol=1e-7)
    assert module.dims == {"image": 4096, "text": 300, "class_embedding": 300}
    for part, count in XMEDIANET.items():
        lines = [f"{part}/{i // XMEDIANET_CLASSES}.jpg {i % XMEDIANET_CLASSES + 1}\n" for i in range(count)]
        (folder / f"img_{part}_list.txt").write_text("".join(lines))
    assert PKUXMediaNet(folder.parent).digest == module.digest
