"""What training does to an image: crops, augmentation, mixing."""
