"""A Detectron2 checkpointer that loads safely, refuses what does not fit, and writes complete files."""

import glob
import os
import re
import reprlib
import zipfile
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from fa_detectron.checkpoint.fit import check_fit, trim_priors
from fa_detectron.checkpoint.other_detectors import adapt_names, expand_priors
from fa_detectron.checkpoint.read_file import read_weights
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write

_NUMBERED = re.compile(r"model_(\d+)\.pth$")


def damage(path: str) -> str:
    """What is wrong with a file of ``torch.save``; "" if it is whole.

    Compares the checksum of every record, which torch.load does not. Nothing is unpickled.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except FileNotFoundError:
        return "it is not there"
    except Exception as error:  # a damaged archive can raise nearly any exception
        return f"it is not a whole file ({error})"
    return f"the checksum of its record {record} is wrong" if record else ""


def last_checkpoint(folder: str) -> str:
    """The file named in ``folder/last_checkpoint``, the last one written; "" if there is none."""
    try:
        with open(os.path.join(folder, "last_checkpoint"), encoding="utf-8") as file:
            name = file.read().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return os.path.join(folder, name) if name else ""


def numbered_checkpoints(folder: str) -> list[str]:
    """Paths of all ``model_NNNNNNN.pth`` in ``folder``, the newest first."""
    found = [path for path in glob.glob(f"{glob.escape(folder)}/model_*.pth") if _NUMBERED.search(path)]
    return sorted(found, key=lambda path: int(_NUMBERED.search(path)[1]), reverse=True)


class FeatureAlignCheckpointer(DetectionCheckpointer):
    """Drop-in for :class:`detectron2.checkpoint.DetectionCheckpointer`.

    It reads ``.pth``, the model zoo's ``.pkl`` and ``.safetensors`` files, see ``read_weights``.
    """

    resumed_from = ""

    def load(self, path: str, checkpointables: list[str] | None = None, *, strict: bool = False) -> dict[str, Any]:
        """Load weights and, if asked for, the state of training.

        Args:
            path: file, or a URL that Detectron2's PathManager knows; "" loads nothing.
            checkpointables: names of the states to load besides the model's; None means all.
            strict: the file must be of exactly this model, as evaluation and ``--resume`` need it. Otherwise it may be
                of another detector with the same backbone; tensors that do not fit are left out and logged.

        Returns:
            The other contents of the file.

        Raises:
            UserError: a missing or unreadable file; a file that does not fit.
        """
        self._strict, self._loading = strict, path
        if path:
            try:
                path = self.path_manager.get_local_path(path)
            except Exception as error:  # each protocol's handler raises its own kind
                raise UserError(f"checkpoint {self._loading}: {error}") from None
            if not os.path.isfile(path):
                raise UserError(f"checkpoint {self._loading}: no such file")
        else:
            return {}  # fvcore would log that it found no checkpoint, even if the backbone has weights
        return super().load(path, checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Continue from the last good checkpoint in ``save_dir`` if there is one, else load the weights in ``path``.

        ``resumed_from`` is the file it continued from, "" for none.
        """
        self.resumed_from = self.last_good() if resume else ""
        if last := self.resumed_from:
            try:
                rest = self.load(last, strict=True)
            except (KeyError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"{last} does not fit this training (optimizer or schedule): {error}. Has a setting changed that "
                    "groups the parameters otherwise (SOLVER.BIAS_LR_FACTOR, SOLVER.WEIGHT_DECAY_NORM, _BIAS or "
                    "_PRIORS, MODEL.BACKBONE.FREEZE_AT, MODEL.FEATURE_ALIGN.TRAIN_PRIORS)? Set it back, or start a new "
                    "run with MODEL.WEIGHTS of this one"
                ) from None
            absent = [name for name in self.checkpointables if name not in self._found]
            if absent:
                raise UserError(
                    f"{last} holds no state of {', '.join(absent)}, so it cannot be resumed; "
                    f"start a new run from it: MODEL.WEIGHTS {last}, without --resume"
                )
            return rest
        if resume:
            self.logger.info("nothing to resume in %s: starting from iteration 0", self.save_dir)
        return self.load(path, checkpointables=[])

    def last_good(self) -> str:
        """The last intact checkpoint; "" if there never was one. All workers get the main process's answer.

        Raises:
            UserError: all checkpoints are damaged.
        """
        chosen = comm.all_gather(self._find_last_good() if comm.is_main_process() else ("", []))[0]
        last, damaged = chosen
        for path, what in damaged:
            self.logger.warning("checkpoint %s is damaged: %s", path, what)
        if damaged and not last:
            listing = "; ".join(f"{path}: {what}" for path, what in damaged)
            raise UserError(f"no checkpoint in {self.save_dir} is whole, so nothing can be resumed: {listing}")
        if damaged:
            self.logger.warning("the one before is used: %s", last)
        return last

    def _find_last_good(self) -> tuple[str, list[tuple[str, str]]]:
        damaged = []
        tagged = self.get_checkpoint_file()
        for path in [tagged] * bool(tagged) + [path for path in numbered_checkpoints(self.save_dir) if path != tagged]:
            what = damage(path)
            if not what:
                return path, damaged
            damaged.append((path, what))
        return "", damaged

    def get_checkpoint_file(self) -> str:
        return last_checkpoint(self.save_dir)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.pth`` (completely or not at all) and make it the one that ``--resume`` takes."""
        if self.write(name, state=True, **kwargs):
            self.tag_last_checkpoint(f"{name}.pth")

    def write(self, name: str, *, state: bool = False, **kwargs: Any) -> str | None:
        """Write ``save_dir/name.pth`` without making it the last checkpoint; returns its path, None if it wrote none.

        The file gets its name once it is on the disk and verified.

        Args:
            name: of the file.
            state: with the state of training (such as the optimizer's), without which it cannot be resumed.
            kwargs: further contents.

        Raises:
            UserError: writing fails, or a weight is not finite. An existing file of this name stays as it was.
        """
        if not self.save_dir or not self.save_to_disk:
            return None
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()} if state else {}
        path = os.path.join(self.save_dir, f"{name}.pth")
        weights = self.model.state_dict()
        for key, value in weights.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise UserError(f"checkpoint {path} is not written: {key} is not finite any more, training diverged")
        try:
            with atomic_write(path, "wb") as file:
                torch.save({"model": weights, **states, **kwargs}, file)
                file.flush()
                if what := damage(file.name):
                    raise OSError(what)
        except (OSError, RuntimeError) as error:  # RuntimeError: torch's, over a failed write
            cause = error if isinstance(error, OSError) else error.__context__ or error
            reason = getattr(cause, "strerror", None) or cause
            raise UserError(
                f"checkpoint {path} cannot be written: {reason}. The checkpoints before it are as they were; "
                "--resume continues from the last one"
            ) from None
        self.logger.info("saved checkpoint %s", path)
        return path

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_write(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename)

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_weights(filename)
        if not isinstance(content, dict) or not content:
            raise UserError(f"{filename}: expected a dict of tensors, found {type(content).__name__}")
        if "model" in content:
            loaded = content  # ours, or Detectron2's model zoo (.pkl; "matching_heuristics" comes with the file)
        elif filename.endswith(".pkl"):  # Detectron1's model zoo
            blobs = content.get("blobs", content)
            if not isinstance(blobs, dict):
                raise UserError(f"{filename}: 'blobs' is not a dict of arrays but {type(blobs).__name__}")
            weights = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
            loaded = {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
        else:
            loaded = {"model": content.get("state_dict", content)}
        if not isinstance(loaded["model"], dict):
            raise UserError(f"{filename}: 'model' is not a dict of tensors but {type(loaded['model']).__name__}")
        for key, value in loaded["model"].items():
            if not isinstance(key, str):
                raise UserError(f"{filename}: {reprlib.repr(key)} is not the name of a tensor")
            if not isinstance(value, (torch.Tensor, np.ndarray)):
                raise UserError(f"{filename}: {reprlib.repr(key)} is not a tensor but {type(value).__name__}")
            if not _is_plain(value):
                raise UserError(f"{filename}: {reprlib.repr(key)} is no plain tensor of numbers")
        self._found = set(loaded)
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        head = getattr(self.model, "head", None)
        if hasattr(head, "cls_score"):
            if not self._strict:
                checkpoint["model"] = adapt_names(checkpoint["model"], self.model.state_dict())
            trim_priors(checkpoint["model"], head.cls_score.out_channels)
            if not self._strict:
                expand_priors(checkpoint["model"], self.model.state_dict())
        try:
            incompatible = super()._load_model(checkpoint)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # torch's, over odd values
            reason = " ".join(str(error).split())
            raise UserError(f"{self._loading}: its tensors cannot be used for this model: {reason:.500}") from None
        check_fit(self._loading, self.model, incompatible, self._strict)
        return incompatible


def _is_plain(value: torch.Tensor | np.ndarray) -> bool:
    """Whether a value can be copied into a weight: numbers in memory, not a quantized or sparse tensor."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    return value.layout == torch.strided and value.device.type != "meta" and not value.is_quantized
