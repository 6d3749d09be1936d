"""autoseg: a self-configuring 3D segmentation pipeline for CT and MR."""

__version__ = "0.1.0"
