"""What a trained model is for: `csd export`, `csd search`, and decoding its features to images."""
