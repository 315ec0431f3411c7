"""Images: files found, read, preprocessed, labelled and drawn."""
