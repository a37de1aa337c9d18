"""Reads of many: what a turn of the loop asks together, listings, and the repair behind an answer."""
