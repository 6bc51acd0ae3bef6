"""The Docker Engine API, version 1.50, on a unix socket.

Read in this order: `router.py` is the whole API as one table; `exchange.py` says what a request and the kinds of answers are;
`clients.py` and `connection.py` carry them over HTTP/1.1; `streams.py` is what goes on after an upgrade. Each other file is one
resource: it parses a request's parameters, asks the engine (`backend.py` is all of it that is used here) and renders the answer
with Docker's keys. Nothing here knows how a container is run or an image is kept.
"""
