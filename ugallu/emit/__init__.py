"""The only road from Finding to SecurityEvent."""
