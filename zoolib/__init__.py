"""zoolib: transfer learning from zoos and hubs of pretrained models."""

__version__ = "0.1.0"
