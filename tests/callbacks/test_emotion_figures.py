import numpy as np

from callbacks.emotion_figures import activation_profiles, answer_panels, heatmap_overlays

NAMES, EXPRESSIONS = ["AU06", "AU12", "AU15"], ["Neutral", "Happiness"]
IMAGES = np.full((2, 8, 8, 3), 200, np.uint8)


def test_profiles_show_shares_and_frame_what_belongs_together() -> None:
    shares = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, np.nan]])
    expected = np.array([[False, False, False], [True, True, False]])
    figure = activation_profiles({"before": shares, "after": shares / 2}, expected, EXPRESSIONS, NAMES)
    before, after, _ = figure.axes
    np.testing.assert_array_equal(before.images[0].get_array().filled(np.nan), shares)
    np.testing.assert_array_equal(after.images[0].get_array().filled(np.nan), shares / 2)
    assert [(p.get_x() + 0.5, p.get_y() + 0.5) for p in before.patches] == [(0, 1), (1, 1)]
    assert before.get_title() == "before"


def test_panels_tell_right_answers_from_wrong_ones() -> None:
    scores = {"before": np.array([[0.1, 0.6, 0.2], [0.5, 0.5, 0]]), "after": np.zeros((2, 3))}
    prob = np.array([[0.2, 0.8], [0.6, 0.4]])
    figure = answer_panels(IMAGES, scores, prob, ["Happiness", "Happiness"], NAMES, EXPRESSIONS, threshold=0.5)
    picture, aus, emotion = figure.axes[:3]
    assert picture.get_title() == "labelled Happiness"
    assert [bar.get_height() for bar in aus.patches[:3]] == [0.1, 0.6, 0.2]
    colours = [figure.axes[place].patches[answer].get_facecolor() for place, answer in ((2, 1), (5, 0))]
    assert colours[0] != colours[1]
    assert [bar.get_width() for bar in emotion.patches] == [0.2, 0.8]


def test_overlays_have_a_row_for_each_picture_and_network() -> None:
    maps = {"before": np.zeros((2, 3, 2, 2)), "after": np.full((2, 3, 2, 2), 5.0)}
    figure = heatmap_overlays(IMAGES, maps, NAMES, top=10.0)
    assert len(figure.axes) == 4 * 4
    assert figure.axes[1].images[1].get_array().max() == 0
    assert figure.axes[5].images[1].get_array().max() == 0.5
    assert [figure.axes[i].get_title() for i in (1, 2, 3)] == NAMES
