"""NUS-WIDE and PKU XMediaNet on tiny trees in their authors' layouts: what is kept, and how files are read."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_trees import (
    NUS_CONCEPTS,
    NUS_COUNTS,
    NUS_WIDTHS,
    XMEDIANET,
    XMEDIANET_CLASSES,
    nus_wide,
    write_nus_wide,
    xmedianet,
)

from datamodules import NUSWIDE, DataError, PKUXMediaNet
from datamodules.files.text_matrix import Part, read_bits, read_parts


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_nus_wide(tmp_path_factory.mktemp("root"))


def module(folder, **kwargs) -> NUSWIDE:
    return NUSWIDE(folder.parent, **({"class_encoder": "one-hot", "subset": None} | kwargs))


def expected() -> tuple[list[int], dict[str, np.ndarray]]:
    """Columns of the ten largest concepts, largest first, and rows of each part with one of them."""
    count = nus_wide("Train")["label"].sum(axis=0)
    largest = sorted(range(len(NUS_CONCEPTS)), key=lambda c: (-count[c], c))[:10]
    return largest, {part: np.flatnonzero(nus_wide(part)["label"][:, largest].any(axis=1)) for part in NUS_COUNTS}


def test_images_with_one_of_the_ten_largest_concepts_are_kept(written):
    data = module(written).data
    largest, rows = expected()
    assert any(len(rows[part]) < NUS_COUNTS[part] for part in rows), "some images have none"
    assert data.class_names == tuple(NUS_CONCEPTS[c] for c in largest)
    found = {part: nus_wide(part) for part in NUS_COUNTS}
    label = np.vstack([found[part]["label"][rows[part]][:, largest] for part in rows])
    np.testing.assert_array_equal(data.label, label)
    assert data.label.dtype == bool
    image = np.vstack([np.hstack([found[part][name] for name in NUS_WIDTHS])[rows[part]] for part in rows])
    np.testing.assert_allclose(data.vectors["image"], image, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(data.vectors["text"], np.vstack([found[p]["tags"][rows[p]] for p in rows]))
    assert data.split.tolist() == ["train"] * len(rows["Train"]) + ["test"] * len(rows["Test"])


def test_the_subset_is_some_of_all_images_each_in_its_own_part(written):
    whole, subset = module(written).data, module(written, subset=30).data
    row = {features.tobytes(): i for i, features in enumerate(whole.vectors["image"])}
    kept = [row[features.tobytes()] for features in subset.vectors["image"]]
    assert len(set(kept)) == len(subset) == 30
    np.testing.assert_array_equal(subset.label, whole.label[kept])
    np.testing.assert_array_equal(subset.split, whole.split[kept])
    np.testing.assert_array_equal(subset.vectors["text"], whole.vectors["text"][kept])
    again, other = (module(written, subset=30, split_seed=seed).data.digest() for seed in (0, 1))
    assert again == subset.digest() != other
    assert module(written, subset=10_000).data.digest() == whole.digest()


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
    rows = np.arange(0, count, count // wanted)
    tracemalloc.start()
    found = read_parts([Part([path], rows, count)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (wanted, width)
    assert peak < path.stat().st_size / 4


def test_bits_are_zeros_and_ones(tmp_path):
    path = tmp_path / "bits.txt"
    path.write_bytes(b"0\r\n1\r\n1\r\n")
    assert read_bits(path).tolist() == [False, True, True]
    path.write_text("0\n-1\n")
    with pytest.raises(DataError, match="line 2 is '-1'; expected 0 or 1"):
        read_bits(path)


# PKU XMediaNet -------------------------------------------------------------------------------------------------------


def test_line_i_of_every_file_is_one_pair(tree):
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


def test_files_may_be_numbered_anew_in_each_class(tree):
    folder = tree("pku_xmedianet")
    for path in folder.glob("img_*_list.txt"):
        lines = [line.split() for line in path.read_text().splitlines()]
        part, first = path.name.split("_")[1], {}
        for line in lines:
            first[line[1]] = first.get(line[1], -1) + 1
            line[0] = f"{part}/{first[line[1]]}.jpg"
        path.write_text("".join(f"{file} {category}\n" for file, category in lines))
    assert len(PKUXMediaNet(folder.parent).data) == sum(XMEDIANET.values())
