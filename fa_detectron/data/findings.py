"""What a look through a data set has found: what training would refuse, what is likely a mistake, what to know."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .records import listing

REFUSED, PROBLEM, NOTE = "refused", "problem", "note"  # only a note leaves the exit status at 0
_KEPT = 1000  # items of a finding in the JSON


@dataclass(frozen=True)
class Finding:
    kind: str  # REFUSED: training stops with these words; PROBLEM: training goes on; NOTE
    path: str
    what: str  # after the count, where there are items
    items: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        if not self.items:
            return f"{self.what}" + (f"\n{self.remedy}" if self.remedy else "")
        text = f"{self.path}: {len(self.items)} {self.what}:\n{listing(self.items)}"
        return text + (f"\n{self.remedy}" if self.remedy else "")

    def as_json(self) -> dict[str, Any]:
        items = list(self.items[:_KEPT])
        return {
            "kind": self.kind,
            "set": self.path,
            "what": self.what,
            "count": len(self.items) or 1,
            "items": items,
            "remedy": self.remedy,
        }


@dataclass
class Findings:
    """Collects findings; :meth:`complain` is what the readers and checks call instead of raising."""

    all: list[Finding] = field(default_factory=list)

    def complain(self, path: str, what: str, items: Sequence[str], remedy: str = "") -> None:
        self.add(REFUSED, path, what, items, remedy)

    def add(self, kind: str, path: str, what: str, items: Sequence[str], remedy: str = "") -> None:
        """Note ``items``, if there are any."""
        if items:
            self.all.append(Finding(kind, path, what, tuple(items), remedy))

    def say(self, kind: str, path: str, text: str, remedy: str = "") -> None:
        """Note one thing in a sentence of its own."""
        self.all.append(Finding(kind, path, text, (), remedy))

    def of(self, kind: str) -> list[Finding]:
        return [finding for finding in self.all if finding.kind == kind]
