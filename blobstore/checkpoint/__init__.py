"""Checkpoints of Hugging Face: a folder of safetensors files, with a configuration and a tokenizer."""
