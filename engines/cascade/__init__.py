"""Label each pixel of a frame by a cascade of three stages, of which the later see what is hard."""
