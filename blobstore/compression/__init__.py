"""The packed stream of a blob: compressed without loss; any range can be read on its own."""
