# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Your own photographs from trained weights
#
# Four networks trained on CIFAR-10 come with the package. This notebook lets one of them name the class of
# photographs, then trains it on to tell two classes that it has never seen.
#
# ## Photographs
#
# Two come with scikit-learn. Put your own into the folder `photos` instead, if you like.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from sklearn.datasets import load_sample_images

Path("photos").mkdir(exist_ok=True)
for name, pixels in zip(("china.jpg", "flower.jpg"), load_sample_images().images, strict=True):
    Image.fromarray(pixels).save(Path("photos") / name)

# %% [markdown]
# ## Name their classes

# %% language="bash"
# cnnjax predict photos --model resnet56 --weights cifar10 --top 3

# %% [markdown]
# CIFAR-10 has ten classes, and there is neither a temple nor a flower among them: the network gives the nearest of
# what it knows, at times with a high probability. The same in Python:

# %%
from cnnjax import predict

network = predict.of_weights("resnet56", "cifar10")
predictions, _ = predict.predict(network, sorted(Path("photos").iterdir()), top=1)
figure, axes = plt.subplots(1, len(predictions), figsize=(9, 4))
for axis, prediction in zip(axes, predictions, strict=True):
    axis.imshow(Image.open(prediction.file))
    axis.set_title(f"{prediction.classes[0]}, {100 * prediction.probabilities[0]:.0f} %")
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Classes of your own
#
# A folder of images for each class is all that training needs. Here they are crops of the two photographs: roofs and
# petals.

# %%
import numpy as np

rng = np.random.default_rng(0)
for file, name in (("china.jpg", "temple"), ("flower.jpg", "flower")):
    folder = Path("my_images") / name
    folder.mkdir(parents=True, exist_ok=True)
    photograph = Image.open(Path("photos") / file)
    for i in range(150):
        x, y = rng.integers(0, (photograph.width - 96, photograph.height - 96))
        photograph.crop((x, y, x + 96, y + 96)).resize((32, 32)).save(folder / f"{i:03}.png")

# %% language="bash"
# cnnjax data my_images

# %% [markdown]
# Train on from the weights. What is new is said at the start: the last layer, since the classes are others. A fifth of
# the images is held out for testing.

# %% language="bash"
# cnnjax train --config configs/train/digits.py --workdir runs/mine --config.data.source=folder \
#     --config.data.path=my_images --config.data.image_size=32 --config.data.flip=True --config.init.weights=cifar10 \
#     --config.batch_size=32 --config.steps=60 --config.optimizer.learning_rate=0.01

# %% language="bash"
# cnnjax eval --workdir runs/mine

# %% [markdown]
# (Crops of one photograph overlap, so this error says nothing of other photographs.) Where does the network look?
# `look` draws the first kernels, feature maps, and Grad-CAM:

# %% language="bash"
# cnnjax look --workdir runs/mine

# %%
plt.figure(figsize=(12, 3))
plt.imshow(Image.open("runs/mine/figures/grad_cam.png"))
plt.axis("off")
plt.show()

# %% [markdown]
# ## Take it elsewhere
#
# The exported file is compared with the network before it is kept:

# %% language="bash"
# cnnjax export --workdir runs/mine --format torch --out mine.pth --overwrite

# %% [markdown]
# Go on: weights of torchvision and what may be frozen are in [Start from PyTorch
# weights](../how-to/pytorch-weights.md).
