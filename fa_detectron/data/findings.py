"""What a look at a data set has found: what training refuses, what is likely a mistake, what to know."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fa_detectron.errors import UserError

logger = logging.getLogger(__name__)

REFUSED, PROBLEM, NOTE = "refused", "problem", "note"  # only a note leaves the exit status of check_data at 0
_SHOWN = 10  # items that a message names before it only counts
_KEPT = 1000  # items of a finding in the JSON


def listing(items: Sequence[str]) -> str:
    """The first items, one per line, and the count of those left out."""
    lines = [f"  {item}" for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f"  ... and {len(items) - _SHOWN} more")
    return "\n".join(lines)


@dataclass(frozen=True)
class Finding:
    kind: str  # REFUSED: training stops with this message; PROBLEM: training goes on; NOTE
    path: str  # of the set or the file
    what: str  # after the count where there are items, a whole sentence where there are none
    items: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{len(self.items)} {self.what}:\n{listing(self.items)}" if self.items else self.what
        return f"{self.path}: {text}" + (f"\n{self.remedy}" if self.remedy else "")

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "set": self.path,
            "what": self.what,
            "count": len(self.items) or 1,
            "items": list(self.items[:_KEPT]),
            "remedy": self.remedy,
        }


@dataclass
class Findings:
    """Collects what readers and checks find. Each of its three methods does nothing where ``items`` is empty.

    Args:
        strict: the first refusal raises a UserError, which is what training wants. Otherwise it is noted like the rest,
            and the reader goes on without the refused entries (check_data).
    """

    strict: bool = False
    all: list[Finding] = field(default_factory=list)
    _logged: int = field(default=0, init=False, repr=False)

    def refuse(self, path: str, what: str, items: Sequence[str], remedy: str = "") -> None:
        """Entries that cannot be used, "PATH: COUNT what:" and the items.

        Raises:
            UserError: there are items, and the findings are strict.
        """
        self._add(REFUSED, path, what, items, remedy)

    def problem(self, path: str, what: str, items: Sequence[str], remedy: str = "") -> None:
        """Entries that are used but are likely a mistake."""
        self._add(PROBLEM, path, what, items, remedy)

    def note(self, path: str, what: str, items: Sequence[str], remedy: str = "") -> None:
        """Entries that are worth knowing of."""
        self._add(NOTE, path, what, items, remedy)

    def say(self, kind: str, path: str, sentence: str, remedy: str = "") -> None:
        """One finding that has no items, "PATH: sentence"."""
        self._append(Finding(kind, path, sentence, (), remedy))

    def _add(self, kind: str, path: str, what: str, items: Sequence[str], remedy: str) -> None:
        if items:
            self._append(Finding(kind, path, what, tuple(items), remedy))

    def _append(self, finding: Finding) -> None:
        if self.strict and finding.kind == REFUSED:
            self.log()  # what was found before may explain it
            raise UserError(str(finding))
        if finding not in self.all:
            self.all.append(finding)

    def add(self, findings: Sequence[Finding]) -> None:
        """Take up what another look has found."""
        for finding in findings:
            self._append(finding)

    def of(self, kind: str) -> list[Finding]:
        return [finding for finding in self.all if finding.kind == kind]

    def log(self) -> None:
        """Log the problems as warnings and the notes as information, each finding once."""
        new, self._logged = self.all[self._logged :], len(self.all)
        for finding in new:
            logger.log(logging.INFO if finding.kind == NOTE else logging.WARNING, "%s", finding)
