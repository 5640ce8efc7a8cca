"""Defaults that the experiments share. A config file calls a function of this module and changes what it must."""

from ml_collections import ConfigDict


def classification() -> ConfigDict:
    """A classifier by the recipe of He et al. 2015, section 4.2: SGD with momentum, 64k steps of 128 images."""
    config = ConfigDict()
    config.seed = 0                         # parameters, data order, augmentation and dropout all derive from it
    config.model = ConfigDict({"name": "resnet20"})     # other keys are fields of the network, such as width
    config.dtype = "float32"                # of activations: float32 or bfloat16
    config.deterministic = False            # True: the same bits on a GPU too, where sums are faster in any order
    config.sync_batch_norm = False          # True: statistics over all devices; False: of each device, as the paper

    config.data = ConfigDict()
    config.data.source = "digits"           # digits, auto, folder, csv, huggingface, tar, idx, or a TFDS name
    config.data.path = ""                   # of the folder, tar, idx files or TFDS directory
    config.data.cache = ""                  # decoded images; empty: the user's cache directory
    config.data.image_size = 0              # 0: as the source has it
    config.data.streamed = False            # True: photographs of any size, decoded and cropped by workers as they come
    config.data.ten_crop = False            # of streamed images: evaluate on four corners and centre, mirrored too
    config.data.test_share = 0.2            # of the images, drawn by seed, where a data set has no splits
    config.data.validation = 0              # images held out of the training split
    config.data.on_error = "stop"           # or "skip": broken images are left out, counted and listed
    config.data.pad = 4                     # random crops from images padded by so many pixels
    config.data.flip = True                 # random horizontal flips

    config.batch_size = 128                 # over all devices
    config.steps = 64_000
    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4    # on every parameter, as the paper
    config.optimizer.clip_norm = 0.0        # 0: gradients are not clipped
    config.optimizer.label_smoothing = 0.0
    config.optimizer.ema = 0.0              # decay of the averaged parameters that are evaluated; 0: none
    config.optimizer.accumulate = 1         # parts of a device's batch that are computed one after the other

    config.schedule = ConfigDict()
    config.schedule.name = "piecewise"      # piecewise, cosine, polynomial or constant
    config.schedule.boundaries = (0.5, 0.75)     # shares of the run, or steps: (32_000, 48_000)
    config.schedule.factor = 0.1            # at each boundary
    config.schedule.power = 1.0             # of the polynomial
    config.schedule.warmup_steps = 0.0      # steps, or a share of the run under 1
    config.schedule.warmup_factor = 0.1     # of the rate, where the warm-up starts
    config.schedule.warmup = "linear"       # or "constant": the factor holds until the warm-up ends
    config.schedule.scale = "none"          # of the rate with batch_size / reference_batch: none, linear or sqrt
    config.schedule.reference_batch = 128   # the batch that optimizer.learning_rate is meant for

    config.population = 1                   # networks trained at once, of seeds from `seed` on, or as `members` says
    config.members = ConfigDict({"seed": (), "learning_rate": (), "momentum": (), "weight_decay": (),
                                 "label_smoothing": ()})        # a value for each of them, or none

    config.log_every = 100                  # steps; a row of metrics.jsonl is the mean over them
    config.eval_every = 1_000
    config.checkpoint_every = 1_000
    config.keep_checkpoints = 2
    config.steps_per_dispatch = 10          # at most so many steps run on the devices between looks by Python
    config.tensorboard = True
    config.wandb = ""                       # a Weights & Biases project, where the package is installed
    return config


def sweep() -> ConfigDict:
    """A search for the classifier of least error on images held out. The config file's `space()` says where."""
    config = classification()
    config.data.validation = 5_000          # He et al. 2015, section 4.2, of CIFAR-10's 50,000
    config.sweep = ConfigDict()
    config.sweep.sampler = "tpe"            # tpe, random or grid
    config.sweep.trials = 40                # a grid has as many as it has points
    config.sweep.startup = 10               # trials at random before TPE models what it has seen
    config.sweep.pruner = "median"          # median, asha or none: at each evaluation
    config.sweep.study = ""                 # its name in the storage; empty: that of the workdir
    config.sweep.launch = ""                # options of submitit or Ray: "slurm_partition=gpu gpus_per_node=1"
    return config


CIFAR10_PUBLISHED = (("resnet20", 8.75), ("resnet32", 7.51), ("resnet44", 7.17), ("resnet56", 6.97),
                     ("resnet110", 6.43))
"""He et al. 2015, table 6. The paper gives no numbers for the plain nets."""


def depth_study() -> ConfigDict:
    """The comparison of plain and residual networks: every kind at every depth with every seed."""
    config = classification()
    config.study = ConfigDict()
    config.study.kinds = ("plain", "resnet")
    config.study.depths = (20, 56)
    config.study.seeds = (0,)
    config.study.title = "digits"           # what the images are called in tables and reports
    config.study.published = ()             # pairs of a network and its paper's error in %: a column of their own
    config.diagnostics = False              # gradient norms and responses of each layer (figure 7)
    return config
