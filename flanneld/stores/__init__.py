"""Where leases live: one file per implementation of `store.LeaseStore`."""
