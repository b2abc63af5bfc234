"""A discrete-event simulation of the serving cluster: queues, batches, cores, failing nodes."""
