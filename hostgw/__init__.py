"""The smallest backend: pod subnets reached by plain routes over a shared layer-2 segment."""
