"""CRI v1 on the engine: what a kubelet asks for, in terms of containers, images and networks.

Read in this order: `server.py` has every call and who answers it; `sandboxes.py`, `containers.py`, `images.py` do the work;
`sandbox_config.py`, `container_config.py`, `security.py` and `resources.py` turn what a kubelet wants into what the engine is asked
for, `answers.py` what the engine knows into what a kubelet is told; `streaming/` is the HTTP server that exec, attach and port
forwarding come to. All state is in the engine's records: nothing is kept here that a restart would lose.
"""
