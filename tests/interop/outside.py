"""Runs an exported file on inputs without cnnjax: python outside.py FILE.onnx|FILE.stablehlo INPUTS.npz OUTPUTS.npz."""

import sys

import numpy as np

file, given, out = sys.argv[1:]
inputs = list(np.load(given).values())
if file.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {node.name: x for node, x in zip(session.get_inputs(), inputs, strict=True)})
else:
    import jax.export
    with open(file, "rb") as stream:
        outputs = jax.export.deserialize(bytearray(stream.read())).call(*inputs)
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
assert not any(name.split(".")[0] in ("cnnjax", "flax") for name in sys.modules)
np.savez(out, *(np.asarray(value) for value in outputs))
