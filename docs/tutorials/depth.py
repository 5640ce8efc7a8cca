# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # The depth comparison
#
# Is a deeper network a better one? He et al. (2015) trained plain networks of 20 and of 56 layers on CIFAR-10, and the
# deeper one was worse, on its own training images too. This notebook does the same on scikit-learn's digits, which
# need no download, and looks at why shortcuts change it. It needs some minutes on two CPU cores.
#
# ## Four trainings
#
# `cnnjax depth` trains each kind at each depth and writes a report. 150 steps here, in place of the 450 of
# `configs/depth/digits.py`; warm-up and drops of the learning rate keep their places in the run.

# %% language="bash"
# cnnjax depth --workdir runs/depth --config.steps=150 --config.diagnostics=False

# %% [markdown]
# The same command again would find the four finished runs and train nothing. Each is a folder with its config, its
# metrics (one JSON object a line) and its checkpoints:

# %%
import json
from pathlib import Path

cells = {folder.name: [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
         for folder in sorted(Path("runs/depth/cells").iterdir())}
cells["plain56-seed0"][-1]

# %% [markdown]
# ## Training error over steps
#
# This is figure 6 of the paper, as far as the digits have it. If the deep plain network merely overfitted, its
# *training* error would be low.

# %%
import matplotlib.pyplot as plt

for name, rows in cells.items():
    train = [row for row in rows if row["split"] == "train"]
    plt.plot([row["step"] for row in train], [100 * row["error"] for row in train], label=name.removesuffix("-seed0"))
plt.xlabel("step")
plt.ylabel("training error, %")
plt.legend()
plt.show()

# %% [markdown]
# On CIFAR-10 the project trained the same four for 4,000 steps ([results](../../experiments/RESULTS.md)):
#
# ![Training and test error over steps on CIFAR-10](../depth_cifar10_curves.png)
#
# ## Do gradients reach the first layers?
#
# Each run also notes the gradient norm of every layer, at its evaluations. A plain network's gradients are smaller
# towards the image; they do not vanish, since batch norm is there.

# %%
for name in ("plain56-seed0", "resnet56-seed0"):
    layers = [row for row in cells[name] if row["split"] == "layers"]
    plt.semilogy(layers[-1]["gradient_norm"], label=name.removesuffix("-seed0"))
plt.xlabel("layer, from the image on")
plt.ylabel("gradient norm")
plt.legend()
plt.show()

# %% [markdown]
# ## What a block does
#
# A residual block adds to its input what its two convolutions make of it. With all weights zero it is the identity, so
# that a deeper network can always copy a shallower one; a plain block with zero weights gives zero.

# %%
import jax
import jax.numpy as jnp

from cnnjax import models

x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
for name in ("resnet20", "plain20"):
    network = models.create(name)
    variables = network.init(jax.random.key(0), x)
    zeros = jax.tree.map(jnp.zeros_like, variables["params"]["stage1_block1"])
    params = {**variables["params"], "stage1_block1": zeros}
    stages = network.apply({**variables, "params": params}, x, features=True)
    print(name, {stage: round(float(jnp.abs(maps).mean()), 3) for stage, maps in stages.items() if maps.ndim == 4})

# %% [markdown]
# Go on: `--config.study.depths="(20,32,44,56)"` and `--config.study.seeds="(0,1,2)"` for a real study, `--config
# configs/depth/cifar10_budget.py` for CIFAR-10, and the [page of the paper](../papers/resnet.md) for the equations.
