"""What `ugallu manifests` writes: everything a cluster needs, generated from what the code declares."""
