"""What the rows of a YOLO set are where a row alone does not tell: all rows of the set decide."""

from collections import Counter

from fa_detectron.data.readers.yolo.rows import DOTA, MAYBE_KEYPOINTS, PIXELS, POLYGON, QUAD, TRACK, Row


class Kinds:
    """What the rows of a set are, by the count of their numbers, once all of them were seen."""

    def __init__(self) -> None:
        self._seen: dict[int, Counter[frozenset[str]]] = {}

    def see(self, rows: list[Row]) -> None:
        for row in rows:
            if not row.kinds & {PIXELS, DOTA}:
                self._seen.setdefault(row.count, Counter())[row.kinds] += 1

    def settle(self) -> dict[int, str]:
        """The kind by the count of numbers; "" for rows that could be two things."""
        settled = {count: _settle(seen) for count, seen in self._seen.items()}
        rows = {count: seen.total() for count, seen in self._seen.items()}
        unclear = [count for count, kind in settled.items() if not kind]
        polygons = sum(rows[count] for count, kind in settled.items() if kind == POLYGON)
        # Polygons have many counts, boxes with keypoints one.
        if unclear and (polygons >= sum(rows[count] for count in unclear) or sum(count > 6 for count in unclear) > 1):
            settled.update(dict.fromkeys(unclear, POLYGON))
        return settled


def _settle(seen: Counter[frozenset[str]]) -> str:
    """The kind of the rows of one count; "" where they could be two things."""
    total = seen.total()
    votes: Counter[str] = Counter()
    for kinds, times in seen.items():
        votes.update(dict.fromkeys(kinds, times))
    common = [kind for kind, times in votes.items() if times == total and kind not in (QUAD, MAYBE_KEYPOINTS)]
    if common == [POLYGON] and votes[QUAD] < total and 2 * votes[MAYBE_KEYPOINTS] > total:
        return ""
    if common:
        return common[0] if len(common) == 1 else ""
    return POLYGON if 2 * votes[POLYGON] > total else TRACK  # rows of the other kind are refused one by one


def kind_of(row: Row, settled: dict[int, str]) -> str:
    """The kind of a row among those of its set; "" where it could be two things or is not what the others are."""
    special = row.kinds & {PIXELS, DOTA}
    if special:
        return next(iter(special))
    return settled[row.count] if settled[row.count] in row.kinds else ""
