"""The config keys that fa_detectron adds to Detectron2's defaults, all of them and in one place."""

from detectron2.config import CfgNode

from fa_detectron.errors import UserError
from fa_detectron.ops.quality_weighted_loss import IOU_TYPES


def add_feature_align_config(cfg: CfgNode) -> None:
    """Add fa_detectron's keys, with their default values, to ``cfg`` (in place).

    The defaults are the published settings of AutoAssign on COCO; FeatureAlign is the same detector with
    FEATURE_FILTER and MDQ switched on, FeatureAlign† has DE_SUBNET and GLOBAL_ATTENTION.ENABLED, too.
    """
    _add_method(cfg)
    _add_backbone(cfg)
    _add_memory_format(cfg)
    _add_solver(cfg)
    _add_data(cfg)
    _add_input(cfg)
    _add_test(cfg)


def _add_method(cfg: CfgNode) -> None:
    fa = cfg.MODEL.FEATURE_ALIGN = CfgNode()
    # Foreground classes (no background class).
    fa.NUM_CLASSES = 80
    # Maps that the head gets, finest first; their strides come from the backbone.
    fa.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # The map that P6 is made of: "p5", as published, or "res5" (C5), as in RetinaNet and mmdetection's AutoAssign.
    fa.P6_FEATURE = "p5"
    # Convolutions in each of the two subnets, before the prediction layers.
    fa.NUM_CONVS = 4
    # Class probability that the class bias starts from.
    fa.PRIOR_PROB = 0.02
    # Where a cell's location stands, in strides from the cell's corner: 0.0 as published, 0.5 the centre.
    fa.LOCATION_OFFSET = 0.0

    # The parts of FeatureAlign, each its own switch (all off: AutoAssign).
    # De-Subnet: the last convolution of both subnets is a modulated deformable one.
    fa.DE_SUBNET = False
    # Feature filter (FF): the misalignment score (2 - (q - R)^2) / 2 weights every positive.
    fa.FEATURE_FILTER = False
    # MDQ: one Gaussian a level and class instead of one a class, and the quality-weighted prior term.
    fa.MDQ = False
    # Train the Gaussians' mu and sigma; False keeps them at 0 and 1, as the published code of FeatureAlign did.
    fa.TRAIN_PRIORS = True
    # G-RFA: a transformer encoder on C5, before C5's lateral convolution.
    fa.GLOBAL_ATTENTION = CfgNode()
    fa.GLOBAL_ATTENTION.ENABLED = False
    # Attention heads; must divide the channels of C5.
    fa.GLOBAL_ATTENTION.NUM_HEADS = 8
    # Hidden channels of the feed-forward part.
    fa.GLOBAL_ATTENTION.DIM_FEEDFORWARD = 2048
    fa.GLOBAL_ATTENTION.NUM_LAYERS = 3
    fa.GLOBAL_ATTENTION.DROPOUT = 0.1
    # Add the encoder's output to C5, times a gate a channel that starts at 0, instead of replacing C5, as published.
    fa.GLOBAL_ATTENTION.GATED = False

    # Loss: balance of positives (alpha) and negatives (1 - alpha), and the negatives' focal exponent.
    fa.FOCAL_ALPHA = 0.25
    fa.FOCAL_GAMMA = 2.0
    # Exponent of the regression quality, R = exp(-REG_WEIGHT * (1 - IoU)).
    fa.REG_WEIGHT = 5.0
    # The IoU in R: "giou", "linear_iou" or "iou" (then R = IoU^REG_WEIGHT).
    fa.IOU_TYPE = "giou"

    # Inference: score a detection must exceed, (location, class) pairs kept a level, IoU that NMS suppresses.
    # The number of detections an image is Detectron2's TEST.DETECTIONS_PER_IMAGE.
    fa.SCORE_THRESH_TEST = 0.05
    fa.TOPK_CANDIDATES_TEST = 1000
    fa.NMS_THRESH_TEST = 0.6


def _add_backbone(cfg: CfgNode) -> None:
    # Read by build_feature_align_timm_fpn_backbone alone.
    timm = cfg.MODEL.TIMM = CfgNode()
    # Any timm model with feature maps at strides 8, 16 and 32.
    timm.NAME = "tf_efficientnet_lite0"
    # ImageNet weights of the timm model: "package:NAME" (an installed weights package), "timm" (timm fetches its own,
    # over a network the first time), a file with timm's state dict (.pth or .safetensors), or "" for a random start.
    # MODEL.WEIGHTS stays the whole detector's.
    timm.WEIGHTS = ""
    # "FrozenBN": BatchNorm keeps the pre-trained statistics and scales (small batches); "BN": it trains.
    timm.NORM = "FrozenBN"


def _add_memory_format(cfg: CfgNode) -> None:
    # On CUDA, backbone, FPN and head compute with channels_last maps and weights, as tensor cores take them.
    # Elsewhere nothing changes.
    cfg.MODEL.CHANNELS_LAST = True


def _add_solver(cfg: CfgNode) -> None:
    # Of mixed precision (SOLVER.AMP.ENABLED): "bfloat16", "float16" (with loss scaling), or "": bfloat16 where the
    # device has it, else float16.
    cfg.SOLVER.AMP.DTYPE = ""
    # "SGD" (with SOLVER.MOMENTUM) or "ADAMW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Learning rates of parts, as factors of BASE_LR: (start of the parameters' names, factor) pairs, for instance
    # [("backbone.bottom_up.", 0.1)] for the pre-trained backbone. Of several that fit, the longest counts.
    cfg.SOLVER.LR_FACTORS = []
    # Weight decay of the Gaussians' mu and sigma. It pulls sigma to 0; the published AutoAssign had 1e-4.
    cfg.SOLVER.WEIGHT_DECAY_PRIORS = 0.0
    # Batches whose gradients add up to a step: IMS_PER_BATCH images are shared by the workers, then by these.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Exponential moving average of the weights, which is then what is evaluated and saved: the share of the old
    # average that a step leaves, 0.999 for instance; 0.0: no average.
    cfg.SOLVER.EMA_DECAY = 0.0
    # Leave out a step whose losses or gradients are not finite (at most 4 in a row), instead of stopping.
    cfg.SOLVER.SKIP_NONFINITE = False
    # How long a run is, instead of SOLVER.MAX_ITER: passes over the training images, or minutes, which are turned into
    # iterations by the time that its first steps take. SOLVER.STEPS, which belong to MAX_ITER, move with the length.
    cfg.SOLVER.EPOCHS = 0.0
    cfg.SOLVER.MINUTES = 0.0
    # The length where neither of these nor MAX_ITER is set: EPOCHS passes, but at least MIN_ITER and at most MAX_ITER
    # iterations. EPOCHS 0.0: SOLVER.MAX_ITER's default.
    cfg.SOLVER.AUTO_LENGTH = CfgNode()
    cfg.SOLVER.AUTO_LENGTH.EPOCHS = 0.0
    cfg.SOLVER.AUTO_LENGTH.MIN_ITER = 600
    cfg.SOLVER.AUTO_LENGTH.MAX_ITER = 6000
    # Minutes after which a checkpoint is written, besides SOLVER.CHECKPOINT_PERIOD; 0.0: never. A run on data given by
    # path has 10.0 where its user sets neither (see fa_detectron.engine.schedule).
    cfg.SOLVER.CHECKPOINT_MINUTES = 0.0
    # Numbered checkpoints that stay in OUTPUT_DIR, at least 2; 0: all.
    cfg.SOLVER.CHECKPOINTS_KEPT = 2


def _add_data(cfg: CfgNode) -> None:
    # Data given by path: a file or folder of annotations in any format (docs/data.md), "PATH:SPLIT" for one split; ""
    # leaves DATASETS.TRAIN or TEST as they are, else they become the data sets custom_train and custom_val.
    cfg.DATASETS.TRAIN_PATH = ""
    cfg.DATASETS.VAL_PATH = ""
    # Where the images of both paths lie; "" looks beside the annotations.
    cfg.DATASETS.IMAGES_ROOT = ""
    # Names in the order of the model's class numbers; () takes them from the training set.
    cfg.DATASETS.CLASS_NAMES = ()
    # Their ids in the user's COCO file, which result files carry; () numbers them from 1. Settled with CLASS_NAMES.
    cfg.DATASETS.CATEGORY_IDS = ()
    # Share of the images of TRAIN_PATH that are held out where a run has no validation set; 0.0: none, and the run is
    # not evaluated. VAL_IMAGES are those of the run, relative to the folder that holds all images of the set.
    cfg.DATASETS.VAL_FRACTION = 0.2
    cfg.DATASETS.VAL_IMAGES = ()
    # Classes to train on, by name; () takes all of the set.
    cfg.DATASETS.KEEP_CLASSES = ()
    # Train on all classes as one.
    cfg.DATASETS.SINGLE_CLASS = False
    # Boxes that are empty, inverted, outside the image or not numbers: "stop" refuses the data, "clip" clips those that
    # leave their image and leaves out the rest, "skip" leaves out all of them.
    cfg.DATASETS.BAD_BOXES = "stop"
    # Leave out images that do not exist, instead of refusing the set.
    cfg.DATASETS.SKIP_MISSING_IMAGES = False
    # Read files that a symbolic link takes out of the set's own folder.
    cfg.DATASETS.FOLLOW_LINKS = False


def _add_input(cfg: CfgNode) -> None:
    # Values that become 0 and 255 in images of more than 8 bits a channel, [LOW, HIGH]; [] is measured on the training
    # set where it has such images. Images of 8 bits are taken as they are.
    cfg.INPUT.PIXEL_RANGE = []
    # Turn images as their EXIF orientation says; False: as they are stored, where the boxes are.
    cfg.INPUT.EXIF_ORIENTATION = True
    # Augmentation in training, besides Detectron2's MIN_SIZE_TRAIN, RANDOM_FLIP and CROP.
    # Random factor of the image's size, (LOW, HIGH), (0.5, 2.0) for instance; what gets larger than it was is cropped.
    # (): none.
    cfg.INPUT.SCALE_JITTER = ()
    # Strength of random brightness, contrast and saturation: 0.3 draws factors from 0.7 to 1.3. 0.0: none.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Share of the images that become mosaics: four images in one, each at about half its size. 0.0: none.
    cfg.INPUT.MOSAIC = 0.0
    # Share of a box's area that a crop or a mosaic has to leave in the image, else the box is dropped. 0.0: any.
    cfg.INPUT.MIN_VISIBLE = 0.0
    # Training images, augmented, that are drawn with their boxes into OUTPUT_DIR/train_batches.jpg; 0: none. A run on
    # data given by path draws 16 where its user does not say otherwise.
    cfg.INPUT.SAMPLE_PICTURES = 0


def _add_test(cfg: CfgNode) -> None:
    # Images of the evaluated set whose detections are drawn into OUTPUT_DIR/samples; 0 draws none.
    cfg.TEST.SAMPLE_PICTURES = 8
    # Evaluations in a row without a better AP after which a run stops; 0: it does not stop early.
    cfg.TEST.PATIENCE = 0


def method_name(cfg: CfgNode) -> str:
    """What the parts that are switched on make: a row of the paper's table, or AutoAssign with the parts by name."""
    options = cfg.MODEL.FEATURE_ALIGN
    parts = {
        "G-RFA": options.GLOBAL_ATTENTION.ENABLED,
        "De-Subnet": options.DE_SUBNET,
        "FF": options.FEATURE_FILTER,
        "MDQ": options.MDQ,
    }
    on = [part for part, switch in parts.items() if switch]
    rows = {"": "AutoAssign", "FF MDQ": "FeatureAlign", "G-RFA De-Subnet FF MDQ": "FeatureAlign†"}
    return rows.get(" ".join(on)) or " + ".join(["AutoAssign", *on])


def check_options(cfg: CfgNode) -> None:
    """Refuse values that no detector can be built from, before anything of it is.

    Raises:
        UserError: names the key, its value and what it may be.
    """
    options, channels = cfg.MODEL.FEATURE_ALIGN, cfg.MODEL.FPN.OUT_CHANNELS
    gamma, iou_type = options.FOCAL_GAMMA, options.IOU_TYPE
    for fits, key, value, wanted in (
        (channels > 0 and channels % 32 == 0, "MODEL.FPN.OUT_CHANNELS", channels, "a multiple of 32"),
        (options.NUM_CLASSES > 0, "MODEL.FEATURE_ALIGN.NUM_CLASSES", options.NUM_CLASSES, "at least 1"),
        (options.NUM_CONVS > 0, "MODEL.FEATURE_ALIGN.NUM_CONVS", options.NUM_CONVS, "at least 1"),
        (gamma == 0 or gamma >= 1, "MODEL.FEATURE_ALIGN.FOCAL_GAMMA", gamma, "0 or at least 1"),
        (
            cfg.TEST.DETECTIONS_PER_IMAGE > 0,
            "TEST.DETECTIONS_PER_IMAGE",
            cfg.TEST.DETECTIONS_PER_IMAGE,
            "at least 1 (as many as the most crowded image has objects)",
        ),
        (iou_type in IOU_TYPES, "MODEL.FEATURE_ALIGN.IOU_TYPE", iou_type, f"one of {', '.join(IOU_TYPES)}"),
        (
            cfg.MODEL.BACKBONE.NAME != "build_resnet_fpn_backbone",
            "MODEL.BACKBONE.NAME",
            cfg.MODEL.BACKBONE.NAME,
            "build_feature_align_resnet_fpn_backbone (Detectron2's own FPN has no place for the attention's mask)",
        ),
    ):
        if not fits:
            raise UserError(f"{key} is {value}, but must be {wanted}")
