"""Loads and measurements. Nothing here is part of the product."""
