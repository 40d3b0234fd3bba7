"""The .sbs container: blobs under keys of up to 16 bytes."""
