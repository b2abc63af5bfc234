"""The HTTP API: requests in, personalised lists out, events to the log."""
