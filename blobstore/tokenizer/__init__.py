"""A model's tokens: read from a checkpoint's tokenizer files, and made into what the runtime reads."""
