"""Whole folders: import and export."""
