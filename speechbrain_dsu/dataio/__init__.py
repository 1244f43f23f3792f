"""Data in and out: manifests, the tokenizing job and the token store."""
