"""One reader a format of weight files, and the writer of torch's."""
