"""EVPN as the control plane of flannel's vxlan: what VTEPs tell of themselves by BGP becomes what vxlan programs for a lease.

RFC 7432 (EVPN), RFC 8365 (with VXLAN), RFC 9136 (IP prefixes).
"""
