"""bgp: pod subnets announced and learned by BGP. exabgp speaks the protocol; everything that a router does besides is here.

backend, network      the plug: leases and choices in, sessions and routes out; `kept`, `life`: how it begins and ends
config and its parts  `section`, `selector`, `settings`, `peering`, `policy`: what the user wrote
neighbours            which sessions there are, by `hosts` and `topology`; `exports`: what each is told; `aim`: all of it
router                brings exabgp to the aim: `adjacencies` is what it says, `telling` what it is told
rib                   `adj_rib_in` and `admission`: what is believed; `best_path`, `loc_rib`: what is chosen; `routes`: where to
speaker/, bfd/        exabgp, and BFD, in processes of their own (`process`, `detached`) that outlive the daemon
evpn/                 the same for vxlan's leases
control, questions    what people ask, by `tartan bgp`; `local`: what they have asked for; `measures`: what scrapes read
"""
