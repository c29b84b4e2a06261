"""Published models: diffusers' pipeline folders, read and written, and weights as safetensors."""
