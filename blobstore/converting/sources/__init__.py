"""Where each tensor of the runtime comes from in a checkpoint, for each family. Spec: spec/gemma.md, Checkpoints."""
