"""Images: listing, reading, preprocessing, class names and drawing."""
