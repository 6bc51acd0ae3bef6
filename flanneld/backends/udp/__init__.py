"""flannel's udp backend: packets through a TUN device and user space."""
