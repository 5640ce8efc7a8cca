# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # A detector from nothing
#
# Faster R-CNN, trained from random weights on an embedded set: digits scattered on textured canvases, each image a
# function of a seed, so that nothing is downloaded. It needs some minutes on two CPU cores.
#
# ## The data

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from cnnjax.data.synthetic_digits import CLASSES, generate
from cnnjax.reporting import boxes

test = generate("test", 4, size=128, seed=0)
pictures = [boxes.draw(test.read(i), objects.boxes, [CLASSES[c] for c in objects.classes])
            for i, objects in enumerate(test.objects)]
plt.figure(figsize=(14, 4))
plt.imshow(boxes.grid([pictures]))
plt.axis("off")
plt.show()

# %% [markdown]
# ## The anchors
#
# At every place of the feature map the region proposal network judges a few reference boxes, the anchors, and moves
# them. An object that no anchor overlaps well is hard to learn, so look before you train: for each object of the
# training images, its best IoU with any anchor.

# %%
from cnnjax import ops
from cnnjax.configs.detect import scatter
from cnnjax.detection import settings

detector = settings.create(scatter.get_config(), len(CLASSES))
stride = 4                                      # of the feature map, in pixels
level = {"last": (np.zeros((1, 128 // stride, 128 // stride, 0)), stride)}
anchors = detector.anchors((128, 128), level)[0].reshape(-1, 4)
train = generate("train", 50, size=128, seed=0)
best = np.concatenate([np.asarray(ops.box_iou(anchors, objects.boxes)).max(0) for objects in train.objects])
plt.hist(best, bins=20)
plt.xlabel("best IoU of an object with an anchor")
plt.ylabel("objects")
plt.show()

# %% [markdown]
# ## Train
#
# The config has the backbone, four convolutions which first learn to classify windows of the training images, the
# anchors above, and 1,000 steps of four images.

# %% language="bash"
# cnnjax train --config configs/detect/scatter.py --workdir runs/faster

# %% [markdown]
# Four losses are summed: objectness and box of the region proposal network, class and box of the head.

# %%
import json

rows = [json.loads(line) for line in Path("runs/faster/metrics.jsonl").read_text().splitlines()]
rows = [row for row in rows if row["split"] == "train"]
for name in sorted(name for name in rows[0] if name.endswith("loss")):
    plt.plot([row["step"] for row in rows], [row[name] for row in rows], label=name)
plt.xlabel("step")
plt.legend()
plt.show()

# %% [markdown]
# ## Detect
#
# First what the region proposal network offers, then what the head makes of it: a class and a moved box for each
# proposal, of which overlapping ones of a class are removed (non-maximum suppression).

# %%
from cnnjax.detection import inference, saved

trained = saved.load(Path("runs/faster"))
pictures = []
for i in range(4):
    found = inference.predict(trained.detector, trained.variables, test.read(i))
    pictures.append([boxes.draw(test.read(i), found.proposals[:20], width=1),
                     boxes.draw_detections(test.read(i), found.detections.boxes, found.detections.scores,
                                           found.detections.classes, trained.classes, score_threshold=0.5)])
plt.figure(figsize=(14, 7))
plt.imshow(boxes.grid(list(zip(*pictures, strict=True))))
plt.axis("off")
plt.show()

# %% [markdown]
# ## How good is it?
#
# The mean average precision on the test images, by VOC's rule (IoU over 0.5) and by COCO's (the mean over IoU 0.5 to
# 0.95):

# %% language="bash"
# cnnjax eval --workdir runs/faster

# %% [markdown]
# Go on: [your own boxes](../how-to/own-detector.md), the [ladder](../../experiments/results/ladder.md) from R-CNN to
# here, and the [page of the paper](../papers/faster_rcnn.md).
