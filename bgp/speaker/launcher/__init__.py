"""exabgp's process: the package as it is published, started and mended as a daemon needs it; must not know our side of the socket.

One module for each thing that is added or mended. Each says which trap of exabgp's it is about, and how to see that a later exabgp
needs it no more. All that is used of exabgp comes by way of `stock`.
"""
