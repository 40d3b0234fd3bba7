"""The configs of published models and their tensors, a module for each family. Spec: spec/gemma.md, Models."""
