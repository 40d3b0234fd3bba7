"""A page that shows a file: what is in it, how it lies, what is wrong with it, and what changed."""
