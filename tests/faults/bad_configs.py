"""Bad configs: for each field of each verb, values that no run can have."""

FILES = {"train": "tests/tiny_config.py", "depth": "tests/faults/tiny_depth.py", "sweep": "configs/sweep/digits.py",
         "ladder": "tests/detection/tiny_ladder.py"}

COUNT = ("0", "-5", "1.5", "many", "None", "()", "99999999999999")
"""What is no count of steps, images or the like."""

RATE = ("-0.1", "nan", "1e999", "-1e999", "1e300", "fast", "(0.1,)")
PORTION = ("1.5", "-0.1", "1e999", "nan", "half")
FLAG = ("2", "maybe", "1.0", "()")

TRAIN = {
    "steps": COUNT, "batch_size": (*COUNT, "-16"), "log_every": COUNT, "eval_every": COUNT,
    "checkpoint_every": COUNT, "keep_checkpoints": COUNT, "steps_per_dispatch": COUNT,
    "seed": ("-1", "99999999999", "zero", "1.0"), "dtype": ("float16", "float64", "int32", ""),
    "sync_batch_norm": FLAG, "tensorboard": FLAG, "wandb": ("project",),
    "optimizer.learning_rate": RATE, "optimizer.weight_decay": RATE, "optimizer.clip_norm": RATE,
    "optimizer.momentum": (*PORTION, "1.0"), "optimizer.label_smoothing": (*PORTION, "1.0"),
    "optimizer.ema": (*PORTION, "1.0"), "optimizer.nesterov": FLAG, "optimizer.accumulate": (*COUNT, "3"),
    "schedule.name": ("stairs", "", "Cosine"),
    "schedule.boundaries": ("(15,10)", "(10,10)", "(-1,)", "(0,)", "('a',)", "(1.5,)", "(True,)", "(99999999999,)",
                            "((1,2),3)", "half"),
    "schedule.factor": (*RATE, "0", "2"), "schedule.power": ("-1", "1e999", "nan", "steep"),
    "schedule.warmup_steps": ("-1", "1.5", "99999999999", "long"), "schedule.warmup_factor": PORTION,
    "schedule.warmup": ("quadratic", ""), "schedule.scale": ("cubic", ""), "schedule.reference_batch": COUNT,
    "population": (*COUNT, "1000000"), "members.seed": ("(1,2)", "x"), "members.learning_rate": ("(0.1,)",),
    "data.source": ("", "digit", "folder", "tar", "idx", "tfds:", "tfds:nothing", "../digits", "a/b"),
    "data.image_size": ("-1", "2.5", "1000000"), "data.validation": ("-1", "1438", "99999", "1.5"),
    "data.test_share": ("0", "1", "-0.1", "1.5", "nan", "x"),
    "data.on_error": ("ignore", ""), "data.pad": ("-1", "1.0", "17", "1000000"), "data.flip": FLAG,
    "data.streamed": ("True", "2"), "data.ten_crop": ("True",),
    "model.name": ("", "resnet21", "3", "vgg16", "alexnet"), "model.width": ("-3", "0", "1.5", "wide"),
    "model.blocks": ("(-1,1,1)", "('a',)", "(1.5,1,1)"), "model.shortcut": ("Z", "3"), "model.depth": ("20",),
    "model.num_classes": ("10", "-1"), "model.dtype": ("float64",), "model.stem": ("none",),
    "model.bottleneck": ("maybe", "1"),
    # names that there are not
    "step": ("4",), "optimizer.beta": ("0.9",), "optimiser.momentum": ("0.5",), "steps.more": ("3",), "": ("3",),
    ".": ("3",), "a..b": ("3",), "optimizer": ("", "3"), "model": ("3",), "model.": ("3",), "model.a.b": ("3",),
    "members": ("3",), "data": ("1",),
}

DEPTH = {
    "study.kinds": ("()", "('plain','plain')", "('dense',)", "(1,)"),
    "study.depths": ("()", "(20,20)", "(21,)", "(-20,)", "(0,)", "(20.0,)", "('20',)", "(99999999999999,)"),
    "study.seeds": ("()", "(0,0)", "(-1,)", "(99999999999,)", "(0.5,)", "('a',)", "(True,)"),
    "study.published": ("3", "(1,2)", "(('resnet20',),)", "(('resnet20','x'),)", "('abc',)"),
    "study.kind": ("plain",), "study": ("3",), "diagnostics": FLAG, "steps": ("0",), "log_every": ("0",),
    "data.streamed": ("True",), "data.pad": ("-1", "99"), "data.source": ("digitz",), "data.validation": ("99999",),
    "schedule.boundaries": ("(260,200)",), "optimizer.momentum": ("1.5",), "population": ("2", "0"),
    "members.seed": ("(1,2)",), "model.name": ("vgg16", "nothing"), "model.width": ("0", "-1", "x"),
}

SWEEP = {
    "sweep.sampler": ("cma", "", "grid"), "sweep.trials": ("0", "-1", "1.5", "99999999999"),
    "sweep.startup": ("-1", "x", "99999999999"), "sweep.pruner": ("hyper", ""),
    "sweep.launch": ("3", "a b", "a=", "=1"), "sweep.x": ("1",), "sweep": ("1",),
    "data.validation": ("0", "-1", "99999"), "population": ("2", "0"), "steps": ("0",), "seed": ("-1",),
    "data.pad": ("-1", "99"), "data.source": ("digitz",), "model.name": ("nothing",), "members.seed": ("(1,)",),
    "optimizer.learning_rate": ("-1",), "schedule.boundaries": ("(3,2)",), "data.ten_crop": ("True",),
}

TRAINING = {"steps": ("0", "-1", "1.5"), "batch_size": ("0", "-8"), "log_every": ("0",), "checkpoint_every": ("0",),
            "optimizer.learning_rate": ("-1.0", "1e999"), "schedule.name": ("x",), "keep_checkpoints": ("0",),
            "schedule.boundaries": ("(9,7)", "(0,)")}

LADDER = {
    "detectors": ("()", "('yolov9',)", "('rcnn','rcnn')", "(1,)"), "seed": ("-1", "99999999999"), "dtype": ("float16",),
    "data.source": ("", "voxel"), "data.on_error": ("ignore", ""), "data.train_images": ("0", "-1", "1.5"),
    "data.test_images": ("0", "-1"), "data.size": ("0", "-64", "8", "1000000", "x"),
    "data.canvases": ("()", "(64,64)", "((64,),)", "((0,64),)", "((-64,64),)", "((64.5,64),)", "((64,64,3),)",
                      "(('a','b'),)", "((1000000,1000000),)"),
    "data.jitter": ("0", "-1", "1.5", "1e999"), "data.classes": ("(1,)",),
    "backbone.name": ("", "big", "resnet21"), "backbone.widths": ("()", "(0,)", "(-8,)", "(8.5,)", "('a',)"),
    "backbone.stage": ("", "stage9", "conv5"), "backbone.head": ("", "conv", "stage"),
    "backbone.hidden": ("(0,)", "(-1,)", "('a',)"), "backbone.dropout": ("-0.1", "1.0", "1e999"),
    "backbone.pool": ("0", "-1", "1.5"), "backbone.mean": ("(0.5,)", "()", "('a','b','c')"),
    "backbone.std": ("(0.0,0.0,0.0)", "(0.5,)", "(-1.0,1.0,1.0)"), "backbone.frozen": ("('nothing',)", "(1,)"),
    "backbone.weights": ("/nowhere",), "backbone.x": ("1",),
    **{f"{phase}.{field}": values for phase in ("pretraining", "rcnn.training", "faster_rcnn.training")
       for field, values in TRAINING.items()},
    "proposals.mode": ("slow", ""), "proposals.side": ("0", "-1", "x"), "proposals.min_size": ("-1", "1000"),
    "proposals.max_proposals": ("0", "-5"), "rcnn": ("1",), "rcnn.side": ("0", "-16"), "rcnn.context": ("-1", "8"),
    **{f"rcnn.{field}": ("-0.1", "1.5") for field in ("fraction", "foreground", "regress", "svm_negative", "test.nms")},
    "rcnn.forward": ("0", "-1"), "rcnn.svm_c": ("0.0", "-1.0", "1e999"), "rcnn.svm_refit": ("0", "-1"),
    "rcnn.ridge": ("-1.0", "1e999"), "rcnn.test.max_detections": ("0", "-1"),
    "rcnn.test.score_threshold": ("1e999", "x"),
    "sppnet.levels": ("()", "(0,)", "(1.5,)"), "sppnet.scales": ("()", "(0.0,)", "(-1.0,)", "(1e999,)"),
    "sppnet.target": ("0.0", "-1.0"), "sppnet.rois": ("0", "-1"),
    "sppnet.background": ("(0.5,0.1)", "(0.1,)", "()", "(-1.0,0.5)", "(0.1,0.5,0.7)"),
    "fast_rcnn.pooling": ("mean", ""), "fast_rcnn.rois": ("0", "-1"), "fast_rcnn.fraction": ("1.5",),
    "fast_rcnn.background": ("(0.5,0.1)", "(0.1,)"), "fast_rcnn.svd_ranks": ("(-1,0)", "(1.5,0)", "(1,2,3)"),
    "faster_rcnn.method": ("both", ""), "faster_rcnn.pooling": ("mean",),
    "faster_rcnn.scales": ("()", "(0.0,)", "(-8.0,)"), "faster_rcnn.ratios": ("()", "(0.0,)", "(-1.0,)"),
    "faster_rcnn.anchor_style": ("tf", ""), "faster_rcnn.rpn_channels": ("0", "-1"), "faster_rcnn.border": ("-1.0",),
    "faster_rcnn.positive": ("1.5", "-0.1", "0.2"), "faster_rcnn.negative": ("1.5", "-0.1"),
    "faster_rcnn.rpn_batch": ("0", "-1"), "faster_rcnn.rpn_fraction": ("-0.1", "1.5"),
    "faster_rcnn.rpn_nms": ("-0.1", "1.5"), "faster_rcnn.min_size": ("-1.0",), "faster_rcnn.rois": ("0", "-1"),
    "faster_rcnn.proposals_train.pre_nms_top_n": ("0", "-1"), "faster_rcnn.proposals_test.post_nms_top_n": ("0",),
    "faster_rcnn.background": ("(0.5,0.1)",), "faster.rois": ("3",), "test.nms": ("-0.1", "1.5"),
    "test.max_detections": ("0", "-1"), "test.score_threshold": ("1e999",), "eleven_points": ("2",),
}

OVERRIDES = [(verb, f"{field}={value}") for verb, fields in (
    ("train", TRAIN), ("depth", DEPTH), ("sweep", SWEEP), ("ladder", LADDER)) for field, values in fields.items()
    for value in values]

TEXTS = {
    "empty": (".py", ""), "no function": (".py", "x = 1"), "a slip": (".py", "def get_config(:"),
    "a null byte": (".py", "x = '\0'"), "latin-1": (".py", "x = 'é'".encode("latin-1")),
    "an error": (".py", "raise OSError('no\\nsuch\\nluck')"), "an exit": (".py", "raise SystemExit(0)"),
    "an unknown import": (".py", "import nothing_of_that_name"), "a dict": (".py", "def get_config(): return {}"),
    "nothing": (".py", "def get_config(): pass"), "an argument": (".py", "def get_config(x): return x"),
    "no function but a number": (".py", "get_config = 3"), "without end": (".py", "def get_config(): get_config()"),
    "an empty config": (".py", "from ml_collections import ConfigDict as C\ndef get_config(): return C()"),
    "an image as one": (".py", b"\x89PNG\r\n\x1a\n"), "another suffix": (".yaml", "steps: 3"),
    "no JSON": (".json", "steps: 3"), "empty JSON": (".json", ""), "null": (".json", "null"), "a list": (".json", "[]"),
    "a number": (".json", "3"), "cut JSON": (".json", '{"steps": 3'), "JSON of nothing": (".json", "{}"),
    "latin-1 JSON": (".json", '{"steps": "é"}'.encode("latin-1")), "100,000 levels": (".json", "[" * 100_000),
    "JSON of 5,000 digits": (".json", '{"steps": ' + "1" * 5000 + "}"),
    "JSON of one field": (".json", '{"steps": 20}'), "JSON of nan": (".json", '{"steps": NaN}'),
    "JSON of null": (".json", '{"model": null, "steps": null}'), "JSON of an unknown field": (".json", '{"stepz": 20}'),
}

SPACES = {
    "none": "", "nothing": "def space(): pass", "a list": "def space(): return []",
    "an empty one": "def space(): return {}", "an error": "def space(): return 1 / 0",
    "a number": "def space(): return {'steps': 3}",
    "an unknown field": "def space(): return {'optimizer.rate': FloatDistribution(0.1, 1.0)}",
    "a field of a group": "def space(): return {'optimizer': FloatDistribution(0.1, 1.0)}",
    "names that are numbers": "def space(): return {3: FloatDistribution(0.1, 1.0)}",
    "rates under 0": "def space(): return {'optimizer.learning_rate': FloatDistribution(-1.0, 1.0)}",
    "a momentum of 1": "def space(): return {'optimizer.momentum': FloatDistribution(0.5, 1.0)}",
    "batches of 0": "def space(): return {'batch_size': IntDistribution(0, 64)}",
    "half steps": "def space(): return {'steps': FloatDistribution(20.5, 60.5)}",
    "unknown networks": "def space(): return {'model.name': CategoricalDistribution(('resnet20', 'resnet21'))}",
    "widths in words": "def space(): return {'model.width': CategoricalDistribution(('wide',))}",
    "reversed": "def space(): return {'optimizer.momentum': FloatDistribution(0.9, 0.5)}",
}

WORKDIRS = {
    "empty": "", "text": "steps: 3", "null": "null", "a list": "[]", "an empty object": "{}", "cut": '{"steps": 3',
    "another config": '{"study": {"kinds": ["plain"]}}', "one field": '{"steps": 20}', "100,000 levels": "[" * 100_000,
    "an image": b"\x89PNG\r\n\x1a\n", "wrong types": '{"model": 3, "data": [], "steps": "x", "kind": 3, "config": []}',
}
