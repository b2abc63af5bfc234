"""The service behind Ray Serve: replicas as actors, HAProxy before them."""
