"""Programs `masquerade`'s rules: one file per kind of firewall."""
