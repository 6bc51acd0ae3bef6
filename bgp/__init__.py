"""bgp: pod subnets announced and learned by BGP. exabgp speaks the protocol; everything that a router does besides is here.

exabgp (a child in a process of its own, `speaker/`) tells what peers say as events, and takes commands. What is believed of it is
`policy`'s business, what is chosen `rib`'s, and what it means for the kernel `backend`'s; `bfd/` notices a dead peer sooner.
"""
