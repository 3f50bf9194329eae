"""Scaling laws: a family of models is trained, their losses fitted, and a size recommended."""
