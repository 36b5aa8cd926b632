"""What the readers of annotation tools' exports have in common."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.images.finder import ImageFinder
from fa_detectron.data.readers.image_list import size_from_file
from fa_detectron.data.readers.shapes import Box
from fa_detectron.data.records import MOST_PIXELS, AnnotatedSet, Annotation, ImageRecord, ReadOptions
from fa_detectron.data.sources.source import Source, is_file_name, links_outside
from fa_detectron.data.sources.splits import is_image
from fa_detectron.data.values import class_name, flag, number, short
from fa_detectron.errors import UserError

_ANNOTATION_FOLDERS = ("annotations", "annotation", "labels", "json", "xml", "csv")


class SetBuilder:
    """Builds an :class:`AnnotatedSet` image by image and box by box, and reports what is left out.

    Args:
        source, options, findings: as a reader gets them.
        folders: to which image names are relative, themselves relative to the set's folder or ``options.images_root``.
            The set's folder is that of the annotation file, or its parent if it is called annotations/ or similar.
    """

    def __init__(
        self, source: Source, options: ReadOptions, findings: Findings, folders: Sequence[str] = ("", "images")
    ) -> None:
        self.path, self._findings = str(source), findings
        own = source.path if os.path.isdir(source.path) else os.path.dirname(source.path)
        root = os.path.dirname(own) if os.path.basename(own).casefold() in _ANNOTATION_FOLDERS else own
        places = [os.path.join(root, name) if name else root for name in folders]
        if named := options.images_folder():
            root = named
            places = [os.path.join(root, name) if name else root for name in folders]
        elif own != root:
            places.append(own)
        self.root, self._options = root, options
        self.finder = ImageFinder(places, root, options.follow_links)
        self._source_file = source.path
        self._images: list[ImageRecord] = []
        self._unreadable: list[str] = []
        self._left_out: Counter[str] = Counter()
        self._refused: dict[str, list[str]] = defaultdict(list)
        self._problems: dict[str, list[str]] = defaultdict(list)
        self._notes: dict[str, list[str]] = defaultdict(list)

    def image(
        self,
        name: Any,
        where: str,
        size: tuple[Any, Any] = (None, None),
        *,
        file: str = "",
        beside: Sequence[str] = (),
        otherwise: Sequence[str] = (),
        embedded: bool = False,
    ) -> ImageRecord | None:
        """A new image of the set.

        Args:
            name: as in the annotations.
            where: names the image in messages if its name cannot be used.
            size: (width, height) in pixels as in the annotations; unless both are positive integers (or their texts),
                the size is read from the image.
            file: with the annotations, if not the source's.
            beside: paths to try first.
            otherwise: names to try if ``name`` leads nowhere.
            embedded: the annotation file contains the image as well.

        Returns:
            None if the image cannot be used, which the findings have; its boxes are then left out, too.
        """
        if not is_file_name(name) or not name.strip():
            self.refuse("images without a file name", f"{where}: {short(name)}")
            return None
        path = self.finder.find(*map(self._relative, beside), name, *otherwise)
        if embedded and path and not os.path.isfile(path):
            self.refuse("files whose image exists only inside them (imageData); write it beside the file", where)
            return None
        if not path:
            return None
        sides = [number(side) for side in size]
        if all(side and side.is_integer() and 0 < side <= MOST_PIXELS for side in sides):
            found = int(sides[0]), int(sides[1])
        else:
            found = size_from_file(path, self._options.upright, self._unreadable)
        if found is None:
            return None
        record = ImageRecord(path, self._relative(path), *found, [], file or self._source_file)
        self._images.append(record)
        return record

    def image_files(self) -> list[str]:
        """All image files in the set's folder and below."""
        places = os.walk(self.root)
        found = [os.path.join(place, name) for place, _, names in places for name in names if is_image(name)]
        leaving = () if self._options.follow_links else links_outside(self.root, map(self._relative, found))
        return sorted(path for path in found if self._relative(path) not in leaving)

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def box(self, image: ImageRecord, label: Any, box: Box | None, index: int, crowd: bool = False) -> None:
        """A new box of an image, in pixels; None for coordinates that cannot be used."""
        name = class_name(label)
        if box is None:
            self.refuse("shapes whose coordinates cannot be used", self._where(image, index, label))
        elif not name:
            self.problem("shapes without a class left out", self._where(image, index, label))
        else:
            image.annotations.append(Annotation(name, box, index, iscrowd=int(crowd)))

    def mark(self, value: Any, name: str, where: str) -> bool:
        """Whether an entry is marked, as in "difficult: 1"; refused if the value is neither yes nor no."""
        known = flag(value)
        if known is None:
            self.refuse("marks that are neither yes nor no (0, 1, true, false)", f"{where}: {name} is {short(value)}")
        return bool(known)

    def _where(self, image: ImageRecord, index: int, label: Any) -> str:
        return f"annotation {index} in {image.source} (image {image.image_id!r}, class {short(label)})"

    def leave_out(self, kind: str) -> None:
        """Count a shape that has no box, such as a point."""
        self._left_out[kind] += 1

    def refuse(self, what: str, item: str) -> None:
        """An entry that cannot be used; see :meth:`Findings.refuse`."""
        self._refused[what].append(item)

    def problem(self, what: str, item: str) -> None:
        """An entry that is likely a mistake."""
        self._problems[what].append(item)

    def note(self, what: str, item: str) -> None:
        """An entry that is worth knowing about."""
        self._notes[what].append(item)

    def say(self, sentence: str) -> None:
        """What is worth knowing about the whole set."""
        self._findings.say(NOTE, self.path, sentence)

    def finish(self, classes: Iterable[Any] = ()) -> AnnotatedSet:
        """The set.

        Args:
            classes: names in the order of their numbers, if the file has them; other classes of boxes follow in
                alphabetical order.

        Raises:
            UserError: there is no image, or something was refused and the findings are strict.
        """
        findings = self._findings
        self.finder.report(self.path, findings)
        for what, items in self._refused.items():
            findings.refuse(self.path, what, items)
        for what, items in self._problems.items():
            findings.problem(self.path, what, items)
        for what, items in self._notes.items():
            findings.note(self.path, what, items)
        findings.refuse(self.path, "images that cannot be read", self._unreadable)
        if self._left_out:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self._left_out.items()))
            self.say(f"annotations left out, since they are not boxes or areas: {counts}")
        if not self._images:
            raise UserError(f"{self.path}: has no usable image")
        known = dict.fromkeys(filter(None, map(class_name, classes)))
        used = {annotation.label for image in self._images for annotation in image.annotations}
        return AnnotatedSet(self.path, (*known, *sorted(used - known.keys())), self._images)
