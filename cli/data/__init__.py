"""Keys and values: put, get, delete, list."""
