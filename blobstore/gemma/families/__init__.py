"""The configs of published models, a module for each family. Spec: spec/gemma.md, Models."""
