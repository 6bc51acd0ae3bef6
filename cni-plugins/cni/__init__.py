"""CNI plugins: everything a pod's network needs on a node, in one program."""
