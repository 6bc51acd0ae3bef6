"""What containers are made of: blobs, layers, images and their names, and their ways in and out, registries and archives."""
