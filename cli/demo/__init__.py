"""The demo: the product's story, told and checked in one run."""
