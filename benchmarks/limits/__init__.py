"""What this machine can do at best, of what our own code is made of."""
