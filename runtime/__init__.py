"""The container engine: images, containers, networks and volumes behind the Docker Engine API and CRI v1.

Read in this order: `engine.py` puts the parts together; `containers/` is what runs, `images/` what it is made of, `networks/` how
it is reached, `volumes.py` what it keeps; `build/` makes images of Dockerfiles; `docker_api/` and `cri/` speak to clients and know
no more of the parts than a caller does; `linux/` is the kernel edge. runc executes, through the OCI command line (`linux/oci.py`),
as child of a small monitor in C (`monitor/`) that holds a container's streams and exit code: the engine may die and come back.
"""
