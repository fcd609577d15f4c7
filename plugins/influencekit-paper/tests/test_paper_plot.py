"""Pictures of patterns and stages show their numbers: what is drawn is read back from the Axes."""

import numpy as np
import pytest
import xarray as xr
from influencekit_paper import plot
from influencekit_paper.patterns import PATTERNS, patterns
from influencekit_paper.stages import stage_agreement, stages

from influencekit import InputError


@pytest.fixture
def patterned() -> xr.Dataset:
    """Patterns of 40 examples in 12 epochs: five fall, five rise, three jump, the rest stay."""
    rng = np.random.default_rng(0)
    x = np.tile(rng.normal(size=40), (12, 1)) + rng.normal(size=(12, 40)) * 0.03
    x[:, :5] -= np.linspace(-2, 2, 12)[:, None]
    x[:, 5:10] += np.linspace(-2, 2, 12)[:, None]
    x[:, 10:13] += 2 * (-1.0) ** np.arange(12)[:, None]
    influence = xr.DataArray(x, dims=("window", "train"), coords={"train": [f"a{i}" for i in range(40)]})
    return patterns(influence)


def test_colours_follow_the_querys_direction(patterned):
    """Blue = helpful: above zero for a loss, below for a margin; neither colour where there is no harm."""
    ends = {}
    for better in ("lower", "higher", "none"):
        colours = plot.pattern_map(patterned.assign_attrs(better=better)).images[0].get_cmap()
        ends[better] = [np.array(colours(at)[:3]) for at in (0.25, 0.75)]
    np.testing.assert_allclose(ends["lower"], ends["higher"][::-1], atol=0.02)  # a step of 256 colours
    assert all(abs(one - other).max() > 0.2 for one in ends["lower"] for other in ends["none"])
    assert patterns(patterned.standardised.assign_attrs(better="higher")).attrs["better"] == "higher"


def test_pattern_lines_draw_every_example_once_and_the_centroid_and_the_chosen_by_name(patterned):
    axes = plot.pattern_lines(patterned, examples=["a0", "a7", "a30"])
    drawn = [np.array(c.get_segments()) for ax in axes for c in ax.collections]
    assert [len(d) for d in drawn] == [5, 5, 27, 3]
    z = patterned.standardised.values
    for d, kind, ax in zip(drawn, PATTERNS, axes, strict=True):
        np.testing.assert_array_equal(d[:, :, 1].T, z[:, patterned.pattern.values == kind])
        lines = {line.get_label(): line for line in ax.lines}
        np.testing.assert_array_equal(lines["centroid"].get_ydata(), patterned.centroid.sel(kind=kind))
        shares = [100 * float(patterned[name].sel(kind=kind)) for name in ("share", "share_by_p")]
        assert "{:.1f} % ({:.1f} % by p alone)".format(*shares) in ax.get_title()
    named = [{line.get_label() for line in ax.lines if line.get_label().startswith("a")} for ax in axes]
    assert named == [{"a0"}, {"a7"}, {"a30"}, set()]
    assert [len(ax.get_legend().get_texts()) for ax in plot.pattern_lines(patterned)] == [3] * 4


def test_a_single_query_need_not_be_taken_out_of_the_patterns_first(patterned):
    one = patterns(patterned.standardised.expand_dims("query"))
    shown = plot.pattern_map(one).images[0].get_array()
    np.testing.assert_allclose(shown, plot.pattern_map(patterned).images[0].get_array(), atol=1e-12)


def test_a_pattern_without_examples_is_an_empty_panel(patterned):
    still = patterns(patterned.standardised[:, 20:], fluctuating=100)
    axes = plot.pattern_lines(still)
    by_p = plot.pattern_lines(patterns(patterned.standardised, change=0))
    assert not any("by p alone" in ax.get_title() for ax in by_p)
    assert [[t.get_text() for t in ax.texts] for ax in axes] == [["no example"]] * 2 + [[], ["no example"]]
    plot.pattern_map(still).figure.canvas.draw()
    axes[0].figure.canvas.draw()


def test_the_pattern_map_has_a_row_for_each_example_sorted_by_pattern(patterned):
    ax = plot.pattern_map(patterned)
    shown = ax.images[0].get_array()
    z, pattern = patterned.standardised.values.T, patterned.pattern.values
    row = 0
    for kind in PATTERNS:
        mine = z[pattern == kind]
        np.testing.assert_array_equal(shown[row : row + len(mine)], mine[mine.mean(1).argsort()])
        row += len(mine)
    assert row == len(shown)
    assert [t.get_text().split("\n")[1] for t in ax.texts] == ["5", "5", "27", "3"]
    places = [t.get_position()[1] for t in ax.texts]
    assert np.diff(places).min() >= 0.085 * 40 - 1e-9 and max(places) <= 39


def test_stages_are_drawn_where_they_begin():
    loss = 0.9 * np.exp(-0.3 * np.arange(21.0)) + 0.1
    loss[[6, 14]] += 0.08
    found = stages(xr.DataArray(loss, dims="epoch"))
    ax = plot.stages(found)
    data, fit, *cuts = ax.lines
    np.testing.assert_array_equal(data.get_ydata(), loss)
    np.testing.assert_array_equal(fit.get_ydata(), found.fitted)
    assert [line.get_xdata()[0] for line in cuts] == [5.5, 13.5]
    assert [t.get_text() for t in ax.texts] == ["early", "middle", "late"]


def test_the_stage_matrix_shows_means_and_deviations_over_the_seeds():
    x = np.random.default_rng(0).normal(size=(3, 4, 20))
    matrix = stage_agreement(xr.DataArray(x, dims=("seed", "window", "train")))
    ax = plot.stage_matrix(matrix)
    np.testing.assert_allclose(ax.images[0].get_array(), matrix.mean("seed"))
    texts = {t.get_position(): t.get_text() for t in ax.texts}
    assert texts[1, 0] == f"{matrix[:, 0, 1].mean():.2f}\n± {matrix[:, 0, 1].std():.2f}"
    assert texts[2, 2] == "1.00" and len(texts) == 16
    assert [t.get_text() for t in ax.get_xticklabels()] == ["early", "middle", "late", "full"]
    one = plot.stage_matrix(matrix[0].where(matrix.stage != "late"))
    assert len(one.texts) == 12 and "±" not in one.texts[1].get_text()


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_every_picture_can_be_saved(patterned, tmp_path, ending):
    matrix = stage_agreement(patterned.standardised.isel(window=[0, 4, 8, 11]))
    for ax in (plot.pattern_lines(patterned)[0], plot.pattern_map(patterned), plot.stage_matrix(matrix)):
        path = tmp_path / f"picture.{ending}"
        ax.figure.savefig(path)
        assert path.stat().st_size > 5000


def test_what_cannot_be_drawn_is_named(patterned):
    with pytest.raises(InputError, match="no example 'nobody' in these patterns; they have 'a0'"):
        plot.pattern_lines(patterned, examples=["nobody"])
    two = patterns(xr.concat([patterned.standardised] * 2, "seed"))
    for draw in (plot.pattern_lines, plot.pattern_map):
        with pytest.raises(InputError, match="expected the patterns of one run and query"):
            draw(two)
    with pytest.raises(InputError, match="expected agreement .stage, other."):
        plot.stage_matrix(patterned.slope)


def test_ids_of_pattern_lines_are_no_formulas(patterned, tmp_path):
    ids = [f"$\\frac{{${i}" for i in range(40)]
    axes = plot.pattern_lines(patterned.assign_coords(train=ids), examples=ids[:2])
    axes[0].figure.savefig(tmp_path / "lines.png")
