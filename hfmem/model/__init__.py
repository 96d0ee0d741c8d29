"""From a config to an architecture: what tensors a model stores and what each of its layers keeps."""
