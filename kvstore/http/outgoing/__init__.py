"""What is answered: values, receipts, problems."""
