"""Pictures: grids of images, animations, plots."""
