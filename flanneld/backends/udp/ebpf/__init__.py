"""The udp backend's data path inside the kernel, by tc and eBPF."""
