"""What containers are made of: blobs by digest, layers unpacked, images and their names, and their ways in and out: registries, archives."""
