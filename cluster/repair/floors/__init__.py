"""Floors: deleting for good. What the steps are, and why each: docs/convergence.md."""
