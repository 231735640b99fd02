"""PKU XMediaNet on a tiny tree with the file names of its authors' code."""

import numpy as np
from tiny_trees import XMEDIANET, XMEDIANET_CLASSES, xmedianet

from datamodules import PKUXMediaNet


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
