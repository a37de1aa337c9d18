"""Writes: handed to the primary of their key, proposed alone or together; weak ones, and what is merged back."""
