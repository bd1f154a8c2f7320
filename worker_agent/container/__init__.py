"""What one container is: its bundle, mounts, image, network and identity, and the record that we keep of it."""
