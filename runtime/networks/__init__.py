"""How containers are reached: networks, the namespaces they are plumbed into, names, published ports.

Read in this order: `network.py` has the values, `store.py` is what the engine sees. `registry.py` knows which networks there are,
`membership.py` who is in them. `wiring.py` brings a container in: `plans.py` decides, `plumber.py` makes, by `sandbox.py` (its
namespace), `ports.py` (its ports on the host) and `attach.py` (the CNI plugins, which do all plumbing, in this process by
`resident.py`); `briefing.py` writes what it is told. `names.py` says who is called what, `name_service.py`, `dns_server.py` and
`dns.py` tell it to containers. `fence.py` is what CNI has no plugin for.
"""
