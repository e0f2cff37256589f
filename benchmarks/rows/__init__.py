"""The rows of the store benchmark, one module a kind of work."""
