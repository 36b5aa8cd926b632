"""Which classes are taken for which, for the page."""

from typing import Any

from .findings import Findings

MATRIX = 25  # classes; of more, the confusion matrix would be unreadable, and the pairs are listed
_PAIRS = 20


def confusion_rows(findings: Findings) -> list[dict[str, Any]]:
    """A row for each true class: its name, and (count, share of the row) by detected class and for "missed".

    The last row is "nothing there", its shares are of the column. A share of nothing is None.
    """
    confusion, k = findings.confusion, len(findings.class_names)
    columns = [sum(row[j] for row in confusion) for j in range(k + 1)]
    rows = []
    for i, (name, counts) in enumerate(zip([*findings.class_names, "nothing there"], confusion)):
        totals = columns if i == k else [sum(counts)] * (k + 1)
        cells = [(count, count / total if total else None) for count, total in zip(counts, totals)]
        rows.append({"name": name, "cells": cells})
    return rows


def confused_pairs(findings: Findings) -> list[tuple[str, str, int]]:
    """(true class, taken for, how often), the most frequent first."""
    names = findings.class_names
    pairs = [
        (names[i], names[j], findings.confusion[i][j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j and findings.confusion[i][j]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:_PAIRS]
