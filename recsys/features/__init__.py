"""What we know about users and items: one meaning of time, offline and online."""
