"""Nodes on this machine: serve, and dev, which supervises several."""
