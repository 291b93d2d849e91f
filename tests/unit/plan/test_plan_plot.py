"""The chart: one line and band a ratio, dashed beyond the data, dots as measured, the same bytes twice, no traces."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from raydelt.errors import InputError
from raydelt.plan.advice import Price
from raydelt.plan.bootstrap import bootstrap
from raydelt.plan.fit import Fit, fit
from raydelt.plan.laws import Curves
from raydelt.plan.plot import figure, save
from tests.unit.plan.buckets import measure, published


@pytest.fixture(scope="module")
def noisy() -> tuple[Fit, tuple[Curves, ...]]:
    fitted = fit(measure(published("D"), np.random.default_rng(0), seeds=2, point=0.003))
    return fitted, bootstrap(fitted, draws=10)


def test_every_ratio_has_a_line_a_band_and_dots(noisy: tuple[Fit, tuple[Curves, ...]]) -> None:
    axes = figure(*noisy, [1e9]).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["top 25 %", "top 50 %", "top 75 %", "top 100 %"]
    dots = sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o")
    assert dots == len(noisy[0].points.loss)
    assert len(axes.collections) == 4
    assert axes.get_xscale() == "log"


def test_lines_are_dashed_beyond_the_data_alone(noisy: tuple[Fit, tuple[Curves, ...]]) -> None:
    lines = {line.get_label(): line for line in figure(*noisy, [1e9]).axes[0].lines}
    solid = lines["top 25 %"]
    drawn = np.isfinite(solid.get_ydata())
    most = noisy[0].points.seen.max()
    assert solid.get_xdata()[drawn].max() <= most < solid.get_xdata()[~drawn].min()


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_chart_gives_the_same_bytes_and_leaves_no_trace(
    noisy: tuple[Fit, tuple[Curves, ...]], tmp_path: Path, suffix: str
) -> None:
    before = dict(matplotlib.rcParams)
    for name in ("a", "b"):
        save(figure(*noisy, [1e9], price=Price(scoring=1e6)), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_other_files_are_refused(noisy: tuple[Fit, tuple[Curves, ...]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.svg or \.png"):
        save(figure(*noisy, [1e9]), tmp_path / "a.pdf")
