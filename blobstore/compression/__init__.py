"""The packed stream of a blob: lossless, and its parts read on their own."""
