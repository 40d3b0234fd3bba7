"""A file made anew: other names, an index, what can be recovered."""
