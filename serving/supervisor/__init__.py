"""``recsys up | down | status | logs``: the servers of one machine as supervised children.

``plan`` says what is to run, ``daemon`` keeps it running, ``state`` is what both sides of the
command line see of it, ``leftovers`` ends what a killed supervisor could not, ``cli`` is the door.
"""
