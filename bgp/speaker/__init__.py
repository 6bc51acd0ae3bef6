"""exabgp as a child that outlives the daemon: sessions and announcements in, events out; must not know what either is good for."""
