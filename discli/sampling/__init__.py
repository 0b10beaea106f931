"""From a trained model to images in files, and to other programs."""
