"""Plots: text stays text, ink follows the page, and a PNG is an image of what was given."""

import re

from PIL import Image

from discli.reports.plots import WIDE, Line, Point, as_svg, curves, save_plot, scatter


def test_a_plot_in_a_page_follows_its_colours_and_needs_nothing_else():
    figure = curves([Line("a", [0, 1], [2, 1], [1.5, 0.5], [2.5, 1.5]), Line("b", [0, 1], [1, 1])], "step", "loss")
    svg = as_svg(figure, "loss by step")
    assert "currentColor" in svg
    assert "#333435" not in svg
    assert all(f">{word}<" in svg for word in ("step", "loss", "a", "b"))
    assert not re.search(r"(href|src)=\"http", svg)


def test_the_same_plot_is_the_same_text():
    texts = {as_svg(scatter([Point("a", 1.0, 2.0, 1.5, 2.5), Point("b", 9.0, 1.0)], "x", "y"), "y by x") for _ in "12"}
    assert len(texts) == 1


def test_a_png_shows_where_a_line_is(tmp_path):
    path = tmp_path / "plot.png"
    save_plot(curves([Line("a", [0, 1], [0, 1])], "x", "y"), path)
    found = {color: count for count, color in Image.open(path).convert("RGB").getcolors(1 << 20)}
    assert found[31, 119, 180] > 200  # the first colour of the cycle


def test_many_or_long_names_are_in_a_legend_below_which_does_not_shrink_the_plot():
    names = [f"model.conditioning=adaln-zero,patch_size={n},{'x' * 60}" for n in range(12)]
    for figure in (
        curves([Line(name, [0, 1], [2, 1]) for name in names], "step", "loss"),
        scatter([Point(name, n + 1.0, 2.0) for n, name in enumerate(names)], "x", "y"),
    ):
        svg = as_svg(figure, "plot")
        assert all(f"patch_size={n}," in svg for n in range(12))
        assert figure.get_figheight() > 6
        assert figure.axes[0].get_window_extent().height > 0.6 * WIDE[1] * figure.dpi
