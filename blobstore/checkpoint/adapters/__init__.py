"""LoRA adapters of peft: read, matched with a model's tensors, and merged into their values a few rows at a time."""
