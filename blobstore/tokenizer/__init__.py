"""A model's tokens: read from a checkpoint's tokenizer files, and made into the SentencePiece model of the runtime."""
