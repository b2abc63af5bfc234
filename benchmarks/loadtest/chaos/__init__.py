"""What callers see when a part of the running system is killed or stopped under load."""
