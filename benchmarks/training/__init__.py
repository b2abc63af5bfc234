"""Examples per second of training, ours beside the peers'."""
