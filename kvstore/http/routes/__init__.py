"""One module per subject that is served, and the table that leads to them."""
