"""What reading and checking a data set finds: errors, likely mistakes, and notes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fa_detectron.errors import UserError

logger = logging.getLogger(__name__)

REFUSED, PROBLEM, NOTE = "refused", "problem", "note"  # only a note leaves the exit status of check_data at 0
_SHOWN = 10  # items listed in a message
_KEPT = 1000  # items of a finding in the JSON


def listing(items: Sequence[str]) -> str:
    """The first items, one per line, and how many more there are."""
    lines = [f"  {item}" for item in items[:_SHOWN]]
    if len(items) > _SHOWN:
        lines.append(f"  ... and {len(items) - _SHOWN} more")
    return "\n".join(lines)


@dataclass(frozen=True)
class Finding:
    kind: str  # REFUSED: training stops with this message; PROBLEM: it continues; NOTE
    path: str  # of the set or the file
    what: str  # follows the count of the items; a whole sentence if there are none
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
    """Collects what readers and checks find. ``refuse``, ``problem`` and ``note`` do nothing if ``items`` is empty.

    Args:
        strict: the first refusal raises a UserError, as training needs. Otherwise it is recorded like the rest, and the
            reader continues without the refused entries (check_data).
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
        """Entries that are used, but are likely mistakes."""
        self._add(PROBLEM, path, what, items, remedy)

    def note(self, path: str, what: str, items: Sequence[str], remedy: str = "") -> None:
        """Entries that are worth knowing about."""
        self._add(NOTE, path, what, items, remedy)

    def say(self, kind: str, path: str, sentence: str, remedy: str = "") -> None:
        """A finding without items, "PATH: sentence"."""
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
        """Add the findings of another check."""
        for finding in findings:
            self._append(finding)

    def of(self, kind: str) -> list[Finding]:
        return [finding for finding in self.all if finding.kind == kind]

    def log(self) -> None:
        """Log the problems as warnings and the notes as information, each finding once."""
        new, self._logged = self.all[self._logged :], len(self.all)
        for finding in new:
            logger.log(logging.INFO if finding.kind == NOTE else logging.WARNING, "%s", finding)
