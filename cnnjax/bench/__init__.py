"""Speed on this machine, of the product's own step, data path and operations, in turn with PyTorch's."""
