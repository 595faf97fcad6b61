"""zoolib: transfer learning from zoos and hubs of pretrained models."""

import os

__version__ = "0.1.0"

# Routes send every member another number of images at every step, and oneDNN compiles a kernel for each number; of the
# 1,024 that it keeps unless told otherwise, most would be compiled again. It reads this at its first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "20000")
