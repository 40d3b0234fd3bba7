"""From a store back to safetensors files."""
