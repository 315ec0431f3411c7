"""Features of images, search by them, and Grad-CAM."""
