"""Whether features are as they should be: expectations, checked in the stream and in batch."""
