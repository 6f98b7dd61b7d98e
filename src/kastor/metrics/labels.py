"""Metrics of classification: exact match, recall, accuracy and balanced accuracy."""

from collections.abc import Mapping, Sequence


def exact_match(answer: str, truth: str) -> bool:
    r"""Whether the answer equals the truth, ignoring surrounding white space.

    >>> exact_match(" forty two\n", "forty two"), exact_match("It is forty two.", "forty two")
    (True, False)
    """
    return answer.strip() == truth.strip()


def recalls(truths: Sequence[str], answers: Sequence[str]) -> Mapping[str, float]:
    """Recall of each label that occurs among the truths, in alphabetical order.

    >>> recalls(["a", "a", "b"], ["a", "b", "b"])
    {'a': 0.5, 'b': 1.0}
    """
    right: dict[str, list[bool]] = {truth: [] for truth in sorted(set(truths))}
    for truth, answer in zip(truths, answers, strict=True):
        right[truth].append(exact_match(answer, truth))
    return {label: sum(found) / len(found) for label, found in right.items()}


def accuracy(truths: Sequence[str], answers: Sequence[str]) -> float:
    """The share of right answers; 0 if there are none.

    >>> accuracy(["a", "a", "b", "a"], ["a", "b", "b", "a"])
    0.75
    """
    return sum(map(exact_match, answers, truths)) / max(1, len(truths))


def balanced_accuracy(truths: Sequence[str], answers: Sequence[str]) -> float:
    """The mean of `recalls`. Always answering one label scores 1 / (number of labels), however frequent it is.

    >>> balanced_accuracy(["sound"] * 9 + ["torn"], ["sound"] * 10)
    0.5
    """
    shares = recalls(truths, answers).values()
    return sum(shares) / max(1, len(shares))


def majority_label(truths: Sequence[str]) -> str:
    """The most frequent label, as a baseline; among equally frequent ones the alphabetically first.

    >>> majority_label(["b", "a", "b", "a", "c"])
    'a'
    """
    return min(set(truths), key=lambda label: (-truths.count(label), label))
