"""What is made of the figures: a table, plots, sentences, a page."""
