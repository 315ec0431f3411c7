"""Metrics of an evaluation equal those of scikit-learn and of the papers."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from resnext_keras.images.labels import decode_predictions
from resnext_keras.training.metrics import (
    Predictions,
    calibration,
    concatenate,
    confusion_matrix,
)

CLASSES = 12


@pytest.fixture(scope="module")
def case():
    """Scores that are right in half of the cases, and labels without class 7."""
    rng = np.random.default_rng(0)
    labels = rng.choice([n for n in range(CLASSES) if n != 7], 500)
    logits = rng.normal(size=(500, CLASSES))
    logits[np.arange(500), labels] += 1.5
    scores = np.exp(logits)
    return (scores / scores.sum(1, keepdims=True)).astype("float32"), labels


@pytest.fixture(scope="module")
def predictions(case):
    return Predictions.from_scores(*case)


def test_accuracy_and_loss_are_those_of_scikit_learn(case, predictions):
    scores, labels = case
    assert len(predictions) == 500
    assert 0.3 < predictions.accuracy() < 0.7
    for top in (1, 2, 5, CLASSES - 1):
        expected = sklearn.top_k_accuracy_score(
            labels, scores, k=top, labels=range(CLASSES)
        )
        assert predictions.accuracy(top) == pytest.approx(expected, abs=1e-12)
    assert predictions.accuracy(CLASSES) == 1
    exact = scores.astype("float64") / scores.astype("float64").sum(1, keepdims=True)
    expected = sklearn.log_loss(labels, exact, labels=range(CLASSES))
    assert predictions.losses.mean() == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(predictions.confidence, scores.max(1))


def test_confusion_and_class_table_are_those_of_scikit_learn(predictions):
    truth, predicted = predictions.labels, predictions.predicted
    found = confusion_matrix(predictions, CLASSES)
    expected = sklearn.confusion_matrix(truth, predicted, labels=range(CLASSES))
    np.testing.assert_array_equal(found, expected)
    table = predictions.class_metrics(CLASSES)
    precision, recall, _, counts = sklearn.precision_recall_fscore_support(
        truth, predicted, labels=range(CLASSES), zero_division=np.nan
    )
    np.testing.assert_allclose(table["precision"], precision)
    np.testing.assert_allclose(table["recall"], recall)
    np.testing.assert_array_equal(table["images"], counts)
    assert np.isnan(table["recall"][7])
    # The second class is never predicted.
    first = Predictions.from_scores(np.array([[1, 0], [1, 0]]), np.array([0, 1]))
    table = first.class_metrics(2)
    np.testing.assert_array_equal(table["precision"], [0.5, np.nan])
    np.testing.assert_array_equal(table["recall"], [1, 0])


def paper_calibration(confidence, right, bins):
    """Equations 2 and 3 of Guo et al., bin by bin."""
    error, rows = 0.0, []
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if not inside.any():
            rows.append((0, np.nan, np.nan))
            continue
        mean, accuracy = confidence[inside].mean(), right[inside].mean()
        error += inside.sum() / len(confidence) * abs(accuracy - mean)
        rows.append((inside.sum(), mean, accuracy))
    return error, np.array(rows).T


@pytest.mark.parametrize("bins", [1, 4, 15, 100])
def test_calibration_is_the_papers(predictions, bins):
    found = calibration(predictions, bins)
    right = predictions.predicted == predictions.labels
    error, (counts, confidence, accuracy) = paper_calibration(
        predictions.confidence, right, bins
    )
    assert found.error == pytest.approx(error, abs=1e-12)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.confidence, confidence)
    np.testing.assert_allclose(found.accuracy, accuracy)


def test_a_confidence_between_two_bins_counts_in_the_lower():
    scores = np.array([[0.5, 0.5], [0.75, 0.25], [1, 0], [0.75, 0.25]])
    found = calibration(Predictions.from_scores(scores, np.array([0, 0, 0, 1])), bins=4)
    np.testing.assert_array_equal(found.counts, [0, 1, 2, 1])
    np.testing.assert_allclose(found.accuracy, [np.nan, 1, 0.5, 1])
    assert found.error == pytest.approx((0.5 + 2 * 0.25) / 4)
    sure_and_right = calibration(Predictions.from_scores(np.eye(3), np.arange(3)))
    assert sure_and_right.error == 0
    assert sure_and_right.counts.tolist() == [0] * 14 + [3]


def test_equal_scores_are_ranked_as_predictions_are_decoded():
    scores = np.array([[0.2, 0.4, 0.4], [1 / 3] * 3, [0.25, 0.5, 0.25]])
    for label in range(3):
        predictions = Predictions.from_scores(scores, np.full(3, label))
        for row, ranked in enumerate(
            decode_predictions(scores, 3, class_names=list("abc"))
        ):
            names = [name for _, name, _ in ranked]
            assert predictions.ranks[row] == names.index("abc"[label])
            assert "abc"[predictions.predicted[row]] == names[0]


def test_the_loss_of_a_score_of_zero_is_finite():
    scores = np.array([[0.9, 0.1], [0.0, 1.0]])
    assert np.isfinite(Predictions.from_scores(scores, np.zeros(2, int)).losses).all()


def test_batches_are_joined_in_their_order_and_may_be_of_half_precision(
    case, predictions
):
    scores, labels = case
    parts = [
        Predictions.from_scores(scores[a:b], labels[a:b])
        for a, b in ((0, 7), (7, 7), (7, 500))
    ]
    for field, expected in vars(predictions).items():
        np.testing.assert_array_equal(getattr(concatenate(parts), field), expected)
    half = Predictions.from_scores(scores.astype("float16"), labels)
    assert half.accuracy() == pytest.approx(predictions.accuracy(), abs=0.01)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.5, 0.5], [0.5, np.nan]], "nan.* in row 1"),
        ([[2.0, -1.0]], "a sum of 1 and a lowest score of -1 in row 0"),
        ([[3.0, 1.0]], "a sum of 4"),
        ([[np.inf, 0.0]], "a sum of inf"),
    ],
)
def test_scores_that_are_not_probabilities_are_refused(scores, message):
    with pytest.raises(ValueError, match=f"Expected scores from 0 to 1.*{message}"):
        Predictions.from_scores(np.array(scores), np.zeros(len(scores), int))
