"""What self-supervised encoders learn from: one objective per published system."""
