"""Model checkpoints: format, zoo, Hugging Face Hub."""
