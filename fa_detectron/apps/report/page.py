"""The HTML report of a run. Jinja2 escapes every text that goes into the page; there is no script and no network."""

import datetime
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

import fa_detectron
from fa_detectron.apps.explain import alignment_picture, explain_image, prior_picture
from fa_detectron.apps.explain.comparison import check_comparable, measure_set, run_titles
from fa_detectron.apps.measure import Measurement, measure, noise_image
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write
from fa_detectron.inference import Predictor, Run
from fa_detectron.modeling import FeatureAlign
from fa_detectron.modeling.config import method_name
from fa_detectron.visualization import class_colour

from .chart import Chart, make_chart
from .confusions import MATRIX, confused_pairs, confusion_rows
from .findings import Findings, find
from .history import Series, read_history, select_ap, select_losses
from .image_views import ImageView, as_picture, error_view, sample_view
from .summary import config_in_short

_OVERALL = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "small objects, below 32² pixels",
    "APm": "medium objects, 32² to 96² pixels",
    "APl": "large objects, above 96² pixels",
    "AR": "average recall, mean over IoU 0.50 to 0.95",
}
_SPEED_IMAGES, _SPEED_REPEATS = 4, 10
_ALIGNED, _ALIGNMENT_PICTURES = 500, 2  # images that are measured, and drawn


@dataclass(frozen=True)
class ReportOptions:
    """What the report is made of.

    Attributes:
        data: a data path as of --val in place of the run's (first) test set.
        images: the folder of its images, where they do not lie beside the annotations.
        threshold: score from which on detections count; None takes the one with the best F1.
        pictures: sample images, and as many of the hardest.
        beside: runs whose alignment is shown next to this one's, on the same classes and image sizes.
    """

    data: str = ""
    images: str = ""
    threshold: float | None = None
    pictures: int = 6
    beside: tuple[Run, ...] = ()


def write_report(run: Run, path: str, options: ReportOptions) -> list[str]:
    """Make the report of a run, whole or not at all.

    Args:
        run: of :func:`fa_detectron.inference.load_run`.
        path: of the HTML file; its folder is made.

    Returns:
        What is missing in it, in words.

    Raises:
        UserError: ``options.data`` is broken, or the file cannot be written.
    """
    # Before the work, which takes minutes.
    check_comparable([run, *options.beside])
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise UserError(f"--output {path} is a folder; give a file's name")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path}: {folder}: {error.strerror}") from None
    page, missing = render(run, options)
    with atomic_write(path) as file:
        file.write(page)
    return missing


def render(run: Run, options: ReportOptions) -> tuple[str, list[str]]:
    """The page, and what is missing in it."""
    findings, no_data = _findings(run, options)
    context = _context(run, findings, no_data, options)
    environment = Environment(
        loader=PackageLoader("fa_detectron.apps.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    missing = [*([no_data] if no_data else []), *context["missing"]]
    return environment.get_template("report.html").render(context), missing


def _findings(run: Run, options: ReportOptions) -> tuple[Findings | None, str]:
    """The findings, or why there are none."""
    if not options.data and not run.cfg.DATASETS.TEST:
        return None, "The run has no evaluation set; --data names one."
    try:
        return find(run, options.data, options.images, options.threshold), ""
    except UserError as error:
        if options.data:
            raise
        # The reason may name folders of this machine: it is for the one who makes the report.
        reason = str(error).partition("\n")[0]
        return None, f"The run's evaluation set cannot be read here; --data names another. ({reason})"


def _context(run: Run, findings: Findings | None, no_data: str, options: ReportOptions) -> dict[str, Any]:
    cfg = run.cfg
    history = read_history(run.folder, cfg.SOLVER.MAX_ITER) if run.folder else {}
    logged = select_ap(history, cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "")
    annotated = findings is not None and findings.has_truth
    missing = [] if history else ["There is no metrics.json of the run: no curves."]
    if findings is not None and not findings.has_truth:
        missing.append(f"{findings.data} has no annotations: detections alone.")
    metrics = findings.metrics if annotated else {name: last(series) for name, series in logged.items()}
    speed = _speed(run, findings)
    if speed is None:
        missing.append("Only FeatureAlign models can be measured: no speed.")
    return {
        "title": run.name,
        "method": method_name(cfg),
        "version": fa_detectron.__version__,
        "torch": torch.__version__,
        "today": datetime.date.today().isoformat(),
        "findings": findings,
        "f1": overall_f1(findings) if annotated else 0.0,
        "annotated": annotated,
        "no_data": no_data.partition(" (")[0],
        "metrics": {name: metrics[name] for name in _OVERALL if name in metrics},
        "meaning": _OVERALL,
        "class_ap": _class_ap(run, metrics),
        "charts": _training_charts(history, logged, cfg.SOLVER.MAX_ITER),
        "ap_chart": "AP" in logged and len(logged["AP"]) > 1,
        "threshold_chart": _threshold_chart(findings) if annotated else None,
        "categories": findings.categories() if annotated else [],
        "colours": ["#{:02x}{:02x}{:02x}".format(*class_colour(i)) for i in range(len(run.class_names))],
        "matrix": confusion_rows(findings) if annotated and len(run.class_names) <= MATRIX else None,
        "pairs": confused_pairs(findings) if annotated else [],
        "samples": [sample_view(findings, i) for i in findings.samples(options.pictures)] if findings else [],
        "hardest": [error_view(findings, i) for i in findings.hardest(options.pictures)] if annotated else [],
        "alignment": _alignment((run, *options.beside), findings) if annotated else None,
        "speed": speed,
        "speed_of": f"images of {findings.data}" if findings else "an image of noise: decoding finds next to nothing",
        "config": config_in_short(run),
        "missing": missing,
    }


def _class_ap(run: Run, metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Of every class, None where the set has no box of it: metrics.json leaves such figures out."""
    classes = {name: metrics.get(f"AP-{name}") for name in run.class_names}
    return classes if any(value is not None for value in classes.values()) else {}


def last(series: Series) -> float:
    return list(series.values())[-1]


def _training_charts(history: dict[str, Series], ap: dict[str, Series], max_iter: int) -> list[Chart]:
    options = {"x_label": "iteration", "x_range": (0, max_iter)}
    charts = [make_chart("Losses", select_losses(history), **options)]
    overall = {name: ap[name] for name in ("AP", "AP50", "AP75") if name in ap}
    if any(len(series) > 1 for series in overall.values()):
        charts.append(make_chart("AP during training", overall, y_top=100, **options))
    charts.append(make_chart("Learning rate", {"lr": history.get("lr", {})}, **options))
    return [chart for chart in charts if chart]


def _threshold_chart(findings: Findings) -> Chart | None:
    curve = findings.curve
    series = {"precision": curve.precision, "recall": curve.recall, "F1": curve.f1}
    mark = (findings.threshold, f"{findings.threshold:.2f}")
    return make_chart(
        "Precision, recall and F1", series, x_label="score threshold", x_range=(0, 1), y_top=1, marker=mark
    )


def overall_f1(findings: Findings) -> float:
    """F1 of all images together, at the threshold."""
    hits = sum(len(result.hits) for result in findings.outcomes)
    errors = sum(result.errors for result in findings.outcomes)
    return 2 * hits / (2 * hits + errors) if hits or errors else 1.0


def _alignment(runs: tuple[Run, ...], findings: Findings) -> dict[str, Any] | None:
    """How well score and box agree (docs/explain.md): figures of each run, pictures of all; None where no box is."""
    records = [findings.records[i] for i in findings.samples(_ALIGNED)]
    boxed = [i for i in findings.samples(len(findings.records)) if len(findings.matched[i].truth.boxes)]
    if not boxed or not all(isinstance(run.model, FeatureAlign) for run in runs):
        return None
    titles = run_titles(runs)
    averages = [measure_set(run, records) for run in runs]
    drawn = [boxed[i * len(boxed) // _ALIGNMENT_PICTURES] for i in range(min(_ALIGNMENT_PICTURES, len(boxed)))]
    views = []
    for index in drawn:
        record = findings.records[index]
        explained = [(title, explain_image(run, record)) for title, run in zip(titles, runs)]
        name = os.path.basename(record["file_name"])
        text = "boxes, score, box quality and foreground weight"
        views.append(ImageView(name, "", (as_picture(alignment_picture(explained, findings.class_names), text),)))
    priors = as_picture(prior_picture(list(zip(titles, runs))), "ellipses of the priors, by level")
    return {"rows": list(zip(titles, averages)), "images": len(records), "views": views, "priors": priors}


def _speed(run: Run, findings: Findings | None) -> dict[str, Any] | None:
    if not isinstance(run.model, FeatureAlign):
        return None
    images: list[Any] = [noise_image(run.cfg)]
    if findings is not None:
        images = [findings.records[i]["file_name"] for i in findings.samples(_SPEED_IMAGES)]
    found: Measurement = measure(Predictor(run), images, batch_size=1, repeats=_SPEED_REPEATS)
    where = f"CPU, {found.threads} thread{'s' if found.threads > 1 else ''}"
    if found.device != "cpu":
        where = torch.cuda.get_device_name(found.device)
    rows = [asdict(stage) for stage in (*found.stages, found.total())]
    return {"where": where, "canvas": found.canvas, "weights": found.weights, "rows": rows}
