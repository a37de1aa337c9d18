"""What a person is shown of a violation: the fewest operations that can't be ordered, as a table and as a timeline."""
