"""The metrics of the field's benchmarks, from the outcomes of single queries.

    accuracy    share of queries whose chosen option is the right one
    macro F1    mean over labels of 2 P R / (P + R); a label that is neither right nor chosen anywhere counts 0, as in
                the script of LaMP (scikit-learn's ``zero_division``)
    MAE, RMSE   mean |chosen - right|, sqrt(mean (chosen - right)^2) of ratings, which are labels in order
    ROUGE-1, L  F measure of shared words, of the longest common subsequence (Lin 2004; rouge-score, with stemming off
                as in LaMP's script)
    METEOR      weighted harmonic mean of precision and recall of matched words, less a penalty for their order
                (Banerjee and Lavie 2005; nltk, alpha 0.9, beta 3, gamma 0.5 as in LongLaMP's script). Words match if
                they are equal or have one Porter stem; without WordNet's synonyms, which nltk would have to download
    nats        negative log-likelihood per token of the right text
    found       share of the evidence among what was recalled

A person's score is the mean over their queries (nats: over their tokens); macro F1 and RMSE are of all queries of all
people together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulations.benchmarks.form import Measure

Outcomes = Sequence[Mapping[str, float]]


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=False)


class _NoSynonyms:
    def synsets(self, word: str) -> list[Any]:
        return []


def meteor(gold: str, answer: str) -> float:
    """METEOR of an answer, of equal and equally stemmed words."""
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score

    wanted, given = (NLTKWordTokenizer().tokenize(text) for text in (gold, answer))
    return float(single_meteor_score(wanted, given, wordnet=_NoSynonyms()))


def overlap(gold: str, answer: str) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L (F measure) and METEOR of an answer."""
    rouge = {name: float(score.fmeasure) for name, score in _scorer().score(gold, answer).items()}
    return {**rouge, "meteor": meteor(gold, answer)}


def accuracy(outcomes: Outcomes) -> float:
    """Share right."""
    return float(np.mean([one["gold"] == one["chosen"] for one in outcomes]))


def macro_f1(outcomes: Outcomes, labels: int) -> float:
    """Mean over ``labels`` labels of their F1."""
    gold, chosen = (np.array([one[name] for one in outcomes]) for name in ("gold", "chosen"))
    scores = []
    for label in range(labels):
        either = np.sum(gold == label) + np.sum(chosen == label)
        scores.append(2 * np.sum((gold == label) & (chosen == label)) / either if either else 0.0)
    return float(np.mean(scores))


def errors(outcomes: Outcomes) -> NDArray[np.float64]:
    """Chosen minus right rating of each query, in places of the scale."""
    return np.array([float(one["chosen"] - one["gold"]) for one in outcomes])


def mae(outcomes: Outcomes) -> float:
    """Mean absolute error."""
    return float(np.abs(errors(outcomes)).mean())


def rmse(outcomes: Outcomes) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt((errors(outcomes) ** 2).mean()))


def nats(outcomes: Outcomes) -> float:
    """Nats per token over all texts."""
    return sum(one["nats"] for one in outcomes) / sum(one["tokens"] for one in outcomes)


def mean_of(name: str, outcomes: Outcomes) -> float:
    """Mean of one value over the queries that have it."""
    return float(np.mean([one[name] for one in outcomes if name in one]))


def scores(outcomes: Outcomes, measure: Measure) -> dict[str, float]:
    """Every score that a person's outcomes allow, for a benchmark with this main ``measure``."""
    first, found = outcomes[0], {}
    if "chosen" in first:
        found["accuracy"] = accuracy(outcomes)
        if measure == "mae":
            found["mae"] = mae(outcomes)
    if "nats" in first:
        found["nats"] = nats(outcomes)
    for name in ("rouge1", "rougeL", "meteor", "found"):
        if any(name in one for one in outcomes):
            found[name] = mean_of(name, outcomes)
    return found


def pooled(outcomes: Outcomes, labels: int, measure: Measure) -> dict[str, float]:
    """Scores of all people's queries together, where all have the same ``labels`` options (0: they have not)."""
    if not labels:
        return {}
    both = {"macro_f1": macro_f1(outcomes, labels)}
    return {**both, "rmse": rmse(outcomes)} if measure == "mae" else both
