"""What `tartan doctor` looks at, one subject a file: values in, findings out; what asks the host or the store is kept small."""
