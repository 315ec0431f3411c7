"""Training, fine-tuning and evaluation of networks of this family."""
