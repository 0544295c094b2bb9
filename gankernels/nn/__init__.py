"""Layers with the names, arguments and weights of torch.nn."""
