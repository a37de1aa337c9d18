"""What this node serves, as OpenAPI 3.1: the document, and the paths in it by subject."""
