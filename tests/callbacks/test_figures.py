"""What the figures show, read back from their artists."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from callbacks import figures

RNG = np.random.default_rng(0)
AUS = [1, 12, 25]
NAMES = ["AU01", "AU12", "AU25"]


def texts(figure: Figure) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def saved(figure: Figure) -> bytes:
    """Drawing is where layouts and fonts fail, and warnings are errors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_f1_against_prevalence_draws_the_all_positive_curve_and_every_defined_au() -> None:
    prevalence = {"AU01": 0.1, "AU12": 0.4, "AU25": 0.0}
    f1 = {"AU01": 0.5, "AU12": 0.6, "AU25": np.nan}
    figure = figures.f1_against_prevalence(prevalence, f1, {"AU01": 0.4, "AU12": 0.5}, {"AU01": 0.6, "AU12": 0.7})
    saved(figure)
    (axes,) = figure.axes
    p, curve = axes.lines[0].get_data()
    assert curve == pytest.approx(2 * p / (1 + p))
    assert axes.collections[-1].get_offsets().tolist() == [[0.1, 0.5], [0.4, 0.6]]
    assert texts(figure) == {"AU01", "AU12"}


def test_f1_against_prevalence_of_nothing_is_empty_not_an_error() -> None:
    saved(figures.f1_against_prevalence({"AU01": 0.0}, {"AU01": np.nan}))


def test_names_of_near_points_stay_apart() -> None:
    figure = figures.f1_against_prevalence({"AU01": 0.2, "AU12": 0.201}, {"AU01": 0.5, "AU12": 0.501})
    places = {text.get_position() for text in figure.axes[0].texts}
    assert len(places) == 2


def test_precision_recall_ends_at_the_prevalence_and_marks_one_half() -> None:
    true, prob = np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.4, 0.2])
    figure = figures.precision_recall({"AU01": (true, prob), "AU12": (np.zeros(4, int), prob)})
    saved(figure)
    first, second = figure.axes
    recall, precision = first.lines[0].get_data()
    assert (recall[-1], precision[-1]) == (1, 0.5)
    assert [float(x[0]) for x in first.lines[2].get_data()] == [0.5, 0.5]  # at 0.5: one hit, one false alarm
    assert "no positives" in texts(figure)
    assert not second.lines


def test_cooccurrence_is_conditional_on_known_labels() -> None:
    true = np.array([[1, 1], [1, 0], [0, 1], [1, -1]])
    called = np.array([[1, 1], [1, 1], [0, 0], [0, 1]], dtype=bool)
    figure = figures.cooccurrence(true, called, [1, 2])
    saved(figure)
    labels, predictions, difference = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[:3])
    # Of the frames with AU1 and a known AU2 one in two has AU2; of those with AU2 (known AU1) one in two has AU1.
    assert labels == pytest.approx(np.array([[1, 0.5], [0.5, 1]]))
    assert predictions == pytest.approx(np.array([[1, 1], [1, 1]]))
    assert difference == pytest.approx(predictions - labels)


def test_cooccurrence_of_an_absent_au_is_blank() -> None:
    figure = figures.cooccurrence(np.array([[0, 1], [0, 1]]), np.zeros((2, 2), bool), [1, 2])
    saved(figure)
    assert np.isnan(np.asarray(figure.axes[0].images[0].get_array())[0]).all()


def test_training_curves_read_lightnings_sparse_rows() -> None:
    table = pd.DataFrame(
        {"epoch": [0, 0, 1, 1], "train/loss": [2.0, np.nan, 1.0, np.nan], "val/f1_mean": [np.nan, 0.2, np.nan, 0.3]}
    )
    figure = figures.training_curves({"fold1": table, "fold2": table.drop(columns="val/f1_mean")}, "val/f1_mean")
    saved(figure)
    loss, score = figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[2, 1], [2, 1]]
    assert [line.get_ydata().tolist() for line in score.lines] == [[0.2, 0.3]]


def test_lines_of_many_runs_are_told_apart() -> None:
    table = pd.DataFrame({"epoch": [0, 1], "train/loss": [2.0, 1.0]})
    figure = figures.training_curves({f"run {number}": table for number in range(9)}, "val/f1_mean")
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(styles) == 9
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"run {number}" for number in range(9)]


def test_importance_of_parameters_is_drawn_in_order() -> None:
    means = {"lr": {"0.1": 50.0, "0.2": 60.0}, "width": {"64": 54.0, "128": 56.0}}
    figure = figures.importance(means, {"lr": 10.0, "width": 2.0}, "F1", "sweep", ranges=True)
    saved(figure)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["lr", "width"]
    assert axes.yaxis_inverted()  # the first on top
    assert [line.get_xdata().tolist() for line in axes.lines] == [[50, 60], [54, 56]]
    assert {text.get_text() for text in axes.texts} == {"0.1", "0.2", "64", "128"}
    named = {"variant": {"sweep-renet_identity": 1.0, "sweep-renet_learnable": 2.0}}
    figure = figures.importance(named, {"variant": 1.0}, "F1", "sweep", ranges=True)
    assert {text.get_text() for text in figure.axes[0].texts} == {"identity", "learnable"}  # what tells them apart
    bars = figures.importance(means, {"lr": 10.0, "width": 2.0}, "F1", "sweep", ranges=False)
    assert [bar.get_width() for bar in bars.axes[0].patches] == [10, 2]


def test_training_curves_of_a_run_without_validation() -> None:
    saved(figures.training_curves({"fold1": pd.DataFrame({"epoch": [0], "train/loss": [1.0]})}, "val/f1_mean"))


def test_relation_matrix_warns_of_small_denominators() -> None:
    relation = np.array([[1, -0.6, -0.38], [-0.6, 1, 0.4], [-0.38, 0.4, 1]])
    figure = figures.relation_matrix(relation, AUS)
    saved(figure)
    bars = figure.axes[1].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([0.02, 0.8, 1.02])
    colours = [bar.get_facecolor() for bar in bars]
    assert colours[0] != colours[1] == colours[2]
    assert "-.60" in texts(figure)


@pytest.mark.parametrize("own", [1, 3])
def test_tsne_is_seeded_and_colours_by_label(own: int) -> None:
    features, true = RNG.normal(size=(60, own, 8)), RNG.integers(-1, 2, (60, 3))
    first, again = (figures.tsne(features, true, AUS, points=40) for _ in range(2))
    saved(first)
    for a, b in zip(first.axes, again.axes, strict=True):
        for x, y in zip(a.collections, b.collections, strict=True):
            assert np.array_equal(x.get_offsets(), y.get_offsets())
    assert [axes.get_title() for axes in first.axes] == NAMES
    assert sum(len(points.get_offsets()) for points in first.axes[0].collections) == 40

    def embedding(panel: int) -> np.ndarray:
        points = np.concatenate([points.get_offsets() for points in first.axes[panel].collections])
        return points[np.lexsort(points.T)]

    assert np.allclose(embedding(0), embedding(1)) == (own == 1)  # a shared feature has one embedding


def test_intensity_bars_show_the_trivial_predictor() -> None:
    values = dict(zip(NAMES, (0.5, -0.1, 0.9), strict=True))
    figure = figures.intensity_bars(values, values, dict.fromkeys(NAMES, 0.3))
    saved(figure)
    icc, mae = figure.axes
    assert [bar.get_height() for bar in icc.patches] == [0.5, -0.1, 0.9]
    assert icc.get_ylim()[0] < -0.1
    assert mae.lines[0].get_ydata().tolist() == [0.3] * 3


def test_distribution_leaves_undefined_scores_out() -> None:
    figure = figures.distribution({"AU01": [0.2, np.nan], "AU12": [0.5, 0.6]}, {"AU01": [], "AU12": [0.1, np.nan]})
    saved(figure)
    heights = [points.get_offsets()[:, 1].tolist() for points in figure.axes[0].collections]
    assert heights == [[], [0.2], [0.1], [0.5, 0.6]]


def test_figures_leave_matplotlibs_settings_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.relation_matrix(np.eye(3), AUS)
    assert dict(mpl.rcParams) == before


def test_correlations_show_labels_predictions_and_their_difference() -> None:
    labels, predictions = np.array([[1, 0.5], [0.5, 1]]), np.array([[1, np.nan], [np.nan, 1]])
    figure = figures.correlations(labels, predictions, [1, 12])
    saved(figure)
    shown = [axes.images[0].get_array() for axes in figure.axes[:3]]
    assert np.ma.filled(shown[0], np.nan).tolist() == labels.tolist()
    assert np.isnan(np.ma.filled(shown[2], np.nan)).tolist() == [[False, True], [True, False]]
    assert len(figure.axes[1].texts) == 2  # unknown is blank


def test_timeline_shades_labels_and_draws_every_run() -> None:
    true = np.array([[0, 0], [1, 1], [1, -1], [0, -1]])
    runs = {"a": RNG.random((4, 2)), "b": RNG.random((4, 2))}
    figure = figures.timeline([5, 6, 7, 9], true, runs, ["AU01", "AU12"])
    saved(figure)
    first, second = figure.axes
    assert [line.get_ydata().tolist() for line in second.lines[1:]] == [runs[name][:, 1].tolist() for name in "ab"]
    assert first.lines[1].get_xdata().tolist() == [5, 6, 7, 9]
    spans = [[path.vertices[:, 0] for path in bars.get_paths()] for bars in (*first.collections, *second.collections)]
    assert [[(x.min(), x.max()) for x in of] for of in spans] == [[(5.5, 7.5)], [], [(5.5, 6.5)], [(6.5, 9.5)]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("label: present", "label: unknown", "a", "b")
    ]


def test_the_names_of_many_runs_stay_inside_the_timeline() -> None:
    names = [f"a_long_name_of_a_configuration-with-variant-{number}" for number in range(4)]
    figure = figures.timeline([0, 1, 2], np.ones((3, 1)), dict.fromkeys(names, np.zeros((3, 1))), ["AU01"])
    figure.draw_without_rendering()
    drawn = figure.legends[0].get_window_extent()
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= set(names)
    assert drawn.x0 >= 0
    assert drawn.x1 <= figure.bbox.width
    assert drawn.y0 > figure.axes[0].get_window_extent().y1


def test_errors_stand_over_the_middles_of_their_bins() -> None:
    figure = figures.errors_by_confidence([0.0, 0.5], [0.4, 1.0], {"wrong": [0.5, 0.1], "missed": [np.nan, 0.2]})
    saved(figure)
    x, y = figure.axes[0].lines[0].get_data()
    assert (list(x), list(y)) == ([0.2, 0.75], [0.5, 0.1])


def test_feature_maps_are_one_row_each_below_the_pictures() -> None:
    images = RNG.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    maps = {"64 x 64": RNG.random((2, 6, 6)), "static": RNG.random((2, 6, 6))}
    figure = figures.feature_maps(images, maps)
    saved(figure)
    assert len(figure.axes) == 6
    assert (figure.axes[1].images[0].get_array() == images[1]).all()
    assert figure.axes[4].images[0].get_array().tolist() == maps["static"][0].tolist()
    assert [figure.axes[place].get_ylabel() for place in (0, 2, 4)] == ["picture", "64 x 64", "static"]


def test_confusion_is_in_shares_of_the_frames_shown() -> None:
    figure = figures.confusion([[3, 1, 0], [0, 0, 0], [1, 1, 2]], ["Neutral", "Fear", "Smile"])
    saved(figure)
    shares = np.asarray(figure.axes[0].images[0].get_array())
    assert shares == pytest.approx(np.array([[0.75, 0.25, 0], [np.nan] * 3, [0.25, 0.25, 0.5]]), nan_ok=True)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["Neutral (4)", "Fear (0)", "Smile (4)"]
