"""Exec, attach and port forwarding: an HTTP server whose connections become several streams at once.

`tokens.py` is who may come, `server.py` takes connections, `spdy.py` with `spdy_client.py` and `websocket_client.py` are the two
ways to have many streams on one; `remote.py` is what both look like to `commands.py` and `port_forward.py`, which serve them.
"""
